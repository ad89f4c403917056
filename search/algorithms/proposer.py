"""Asks for a study's next trial; by what its journal says, so that it can be asked again."""

import warnings
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from search.algorithms.ehvi import Proposal, propose
from search.algorithms.observations import TrialHistory
from search.algorithms.problem import SamplerSettings, SearchProblem
from search.core.config import SamplerName
from search.storage.optuna_storage import enqueued_params
from search.storage.trials import ACQUISITION_VALUE, read_reason
from trainables.config import TrialConfig
from trainables.core.config_base import digest

REPEATED = "the same configuration as trial"
"""In the reason of a trial that is not trained: the next one is drawn at random."""
STOP_WINDOW = 5
"""Proposals in a row that must promise less than the improvement bar before a search ends."""


class Proposer:
    """Queues what the sampler proposes, and asks for what is first in the queue.

    `history` knows the trials of the study as they are now. Nothing beyond the problem's budget is
    proposed.
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

    def ask(self) -> optuna.Trial | None:
        """The next trial, at random after a repeat; None where none is worth its while."""
        trials = self.study.get_trials(deepcopy=False)
        first = next((trial for trial in trials if trial.state == TrialState.WAITING), None)
        settings = self.settings
        seed = make_seed(settings.seed, len(trials) if first is None else first.number)
        proposal = Proposal({})
        if settings.sampler == "ehvi" and first is None:
            known, random = self.history.all_observations(), np.random.default_rng(seed)
            warm_start = list(settings.warm_start_observations)
            proposal = propose(self.problem.space, known, warm_start, self._costs_of, random)
            if self._has_converged(trials, proposal):
                return None
            if proposal.params:  # queued: a driver that dies before asking has lost nothing
                self.study.enqueue_trial(
                    dict(proposal.params),
                    user_attrs={ACQUISITION_VALUE: proposal.acquisition_value},
                )
        is_repeat = first is None and bool(trials) and REPEATED in read_reason(trials[-1])
        sampler = "random" if is_repeat and not proposal.params else settings.sampler
        self.study.sampler = make_sampler(sampler, seed)
        if first is not None:
            self._skip_drawn(first)
        return self.study.ask()

    def _skip_drawn(self, trial: FrozenTrial) -> None:
        """Brings the sampler to where it was when a driver died half-way through a space.

        But for TPE past its first trials, which draws parameters together.
        """
        fixed = enqueued_params(trial)
        for name, distribution in trial.distributions.items():
            if name not in fixed:
                self.study.sampler.sample_independent(self.study, trial, name, distribution)

    def _costs_of(self, suggested: TrialConfig) -> tuple[float, ...] | None:
        """The costs of a configuration that may be tried; None: unknown, too high, or trained."""
        config = self.problem.complete(suggested)
        foreseen = self.problem.predict_cost_if_known(config)
        if foreseen is None or self.problem.budget.describe_violations(foreseen):
            return None
        return None if config.digest() in self.history.trained else self.history.values(foreseen)

    def _has_converged(self, trials: Sequence[FrozenTrial], proposal: Proposal) -> bool:
        """Whether this proposal and those before it promise next to nothing."""
        if self.settings.improvement_bar is None or proposal.acquisition_value is None:
            return False
        gains = [
            acquisition_value
            for trial in trials
            if (acquisition_value := trial.user_attrs.get(ACQUISITION_VALUE)) is not None
        ]
        last = [*gains, proposal.acquisition_value][-STOP_WINDOW:]
        return len(last) == STOP_WINDOW and max(last) < self.settings.improvement_bar


def make_seed(seed: int, trial_number: int) -> int:
    """A trial's own seed, by the study's and its number.

    So a resumed study does not draw again what it has drawn.
    """
    return int(digest([seed, trial_number])[:7], 16)


def make_sampler(name: SamplerName, seed: int) -> BaseSampler:
    """The sampler for one trial, with its own seed; of "ehvi", for what it does not propose."""
    match name:
        case "tpe":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return TPESampler(multivariate=True, constant_liar=True, seed=seed)
        case "nsga2":
            return NSGAIISampler(seed=seed)
        case "ehvi" | "random":
            return RandomSampler(seed=seed)
