"""Asks for a study's next trial; by what its journal says, so that it can be asked again."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from search.algorithms.ehvi import Proposal, propose
from search.algorithms.observations import Observation, TrialHistory
from search.core.config import SamplerName
from search.core.constraints import Budget
from search.storage.optuna_storage import enqueued_params
from search.storage.trials import ACQUISITION_VALUE, read_reason
from spaces import Space
from trainables.config import TrialConfig
from trainables.core.config_base import digest

REPEATED = "the same configuration as trial"
"""In the reason of a trial that is not trained: the next one is drawn at random."""
STOP_WINDOW = 5
"""Proposals in a row whose expected gain must be small before a search counts as flat."""


class Proposer:
    """Queues what the sampler proposes, and asks for what is first in the queue.

    Args:
        complete: fills in what the study fixes for all trials (epochs, seed, ...).
        budget: nothing beyond it is proposed.
        memory: knows the trials of the study as they are now.
        earlier: trials of another study, for the sampler to begin with.
        flat: nothing is asked any more when proposals promise less, as a share of the hypervolume.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        complete: Callable[[TrialConfig], TrialConfig],
        budget: Budget,
        history: TrialHistory,
        sampler: SamplerName,
        seed: int,
        warm_start_observations: Sequence[Observation] = (),
        improvement_bar: float | None = None,
    ) -> None:
        self.study, self.space, self.complete = study, space, complete
        self.budget, self.history = budget, history
        self.sampler, self.seed = sampler, seed
        self.warm_start_observations = list(warm_start_observations)
        self.improvement_bar = improvement_bar

    def ask(self) -> optuna.Trial | None:
        """The next trial, at random after a repeat; None where none is worth its while."""
        trials = self.study.get_trials(deepcopy=False)
        first = next((trial for trial in trials if trial.state == TrialState.WAITING), None)
        seed = make_seed(self.seed, len(trials) if first is None else first.number)
        proposal = Proposal({})
        if self.sampler == "ehvi" and first is None:
            known, random = self.history.all_observations(), np.random.default_rng(seed)
            proposal = propose(
                self.space, known, self.warm_start_observations, self._costs_of, random
            )
            if self._has_converged(trials, proposal):
                return None
            if proposal.params:  # queued: a driver that dies before asking has lost nothing
                self.study.enqueue_trial(
                    dict(proposal.params),
                    user_attrs={ACQUISITION_VALUE: proposal.acquisition_value},
                )
        is_repeat = first is None and bool(trials) and REPEATED in read_reason(trials[-1])
        sampler = "random" if is_repeat and not proposal.params else self.sampler
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
        config = self.complete(suggested)
        foreseen = self.history.predict_cost(config)
        if foreseen is None or self.budget.describe_violations(foreseen):
            return None
        return None if config.digest() in self.history.trained else self.history.values(foreseen)

    def _has_converged(self, trials: Sequence[FrozenTrial], proposal: Proposal) -> bool:
        """Whether this proposal and those before it promise next to nothing."""
        if self.improvement_bar is None or proposal.acquisition_value is None:
            return False
        gains = [
            acquisition_value
            for trial in trials
            if (acquisition_value := trial.user_attrs.get(ACQUISITION_VALUE)) is not None
        ]
        last = [*gains, proposal.acquisition_value][-STOP_WINDOW:]
        return len(last) == STOP_WINDOW and max(last) < self.improvement_bar


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
