"""Asks for the next trial of a study, as a function of its journal, so that it can be repeated."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from search.algorithms.ehvi import Proposal, propose
from search.algorithms.observations import TrialHistory
from search.algorithms.problem import SamplerSettings, SearchProblem
from search.core.config import SamplerName
from search.storage.optuna_storage import StudyWithout, enqueued_params
from search.storage.trials import ACQUISITION_VALUE, OF_BATCH, read_reason
from spaces import ORIGINAL
from trainables.config import TrialConfig
from trainables.core.config_base import digest

REPEATED = "the same configuration as trial"
"""Part of the reason of a trial that is not trained; the trial after it is drawn at random."""
RUNNING_EACH = 32
"""Trials that run for each proposal of a batch; a model fitted for each would keep GPUs waiting."""
MAX_BATCH = 16
STOP_WINDOW = 5
"""Consecutive proposals, each the best of its batch, whose acquisition value must be below the bar
before a search ends."""


class Proposer:
    """Enqueues the sampler's proposals, and asks for the first trial of the queue.

    `history` holds the trials of the study as they are now. Configurations over the problem's
    budget are not proposed.
    """

    def __init__(
        self,
        study: optuna.Study,
        problem: SearchProblem,
        history: TrialHistory,
        settings: SamplerSettings,
    ) -> None:
        self.study, self.problem = study, problem
        self.history, self.settings = history, settings

    def ask(self, most: int = 1) -> optuna.Trial | None:
        """The next trial, random after a repeated configuration; None where it has converged.

        While many trials run, up to `most` are proposed at once, for the calls that follow.
        """
        trials = self.study.get_trials(deepcopy=False)
        first = next((trial for trial in trials if trial.state == TrialState.WAITING), None)
        settings = self.settings
        seed = make_seed(settings.seed, len(trials) if first is None else first.number)
        best = Proposal({})
        if settings.sampler == "ehvi" and first is None:
            known, random = self.history.all_observations(), np.random.default_rng(seed)
            warm_start = list(settings.warm_start_observations)
            num_running = sum(observation.running for observation in known)
            best, *others = propose(
                self.problem.space,
                known,
                warm_start,
                self._costs_of,
                random,
                self.problem.least_miou,
                min(max(1, num_running // RUNNING_EACH), MAX_BATCH),
            )
            if self._has_converged(trials, best):
                return None
            if best.params:  # enqueued, so that it is kept if the driver dies before asking
                self._enqueue(best, {ACQUISITION_VALUE: best.acquisition_value})
            proposed = [best.params]
            for other in others[: most - 1]:  # whose values depend on the best, and are not stored
                if other.params not in proposed:
                    self._enqueue(other, {OF_BATCH: True})
                    proposed.append(other.params)
        is_repeat = first is None and bool(trials) and REPEATED in read_reason(trials[-1])
        sampler = "random" if is_repeat and not best.params else settings.sampler
        self.study.sampler = make_sampler(sampler, seed)
        if first is not None:
            self._skip_drawn(first)
        return StudyWithout(self.study, ORIGINAL).ask()

    def _enqueue(self, proposal: Proposal, user_attrs: dict[str, Any]) -> None:
        self.study.enqueue_trial(dict(proposal.params), user_attrs=user_attrs)

    def _skip_drawn(self, trial: FrozenTrial) -> None:
        """Restores the sampler's state for a trial that a killed driver had sampled in part.

        This does not restore TPE after its first trials, since it samples parameters jointly.
        """
        fixed = enqueued_params(trial)
        for name, distribution in trial.distributions.items():
            if name not in fixed:
                self.study.sampler.sample_independent(self.study, trial, name, distribution)

    def _costs_of(self, suggested: TrialConfig) -> tuple[float, ...] | None:
        """The costs of a configuration; None: unknown, over budget, or trained already."""
        config = self.problem.complete(suggested)
        costs = self.problem.predict_cost_if_known(config)
        if costs is None or self.problem.budget.describe_violations(costs):
            return None
        return None if config.digest() in self.history.trained else self.history.values(costs)

    def _has_converged(self, trials: Sequence[FrozenTrial], proposal: Proposal) -> bool:
        """Whether the last `STOP_WINDOW` acquisition values are all below the improvement bar."""
        if self.settings.improvement_bar is None or proposal.acquisition_value is None:
            return False
        earlier = [
            acquisition_value
            for trial in trials
            if (acquisition_value := trial.user_attrs.get(ACQUISITION_VALUE)) is not None
        ]
        last = [*earlier, proposal.acquisition_value][-STOP_WINDOW:]
        return len(last) == STOP_WINDOW and max(last) < self.settings.improvement_bar


def make_seed(seed: int, trial_number: int) -> int:
    """The seed of one trial, from the study's seed and the trial's number.

    A resumed study therefore does not repeat its random draws.
    """
    return int(digest([seed, trial_number])[:7], 16)


def make_sampler(name: SamplerName, seed: int) -> BaseSampler:
    """The Optuna sampler for one trial; with "ehvi", for the parameters it does not propose."""
    match name:
        case "tpe":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return TPESampler(multivariate=True, constant_liar=True, seed=seed)
        case "nsga2":
            return NSGAIISampler(seed=seed)
        case "ehvi" | "random":
            return RandomSampler(seed=seed)
