"""Asks for a study's next trial; by what its journal says, so that it can be asked again."""

from collections.abc import Callable, Sequence

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from search.budget import Budget
from search.gain import Proposal, propose
from search.memory import Memory
from search.observation import Observation
from search.record import GAIN, read_reason
from search.sampler import SamplerName, make_sampler, make_seed
from spaces import Space
from trainables.config import TrialConfig

REPEATED = "the same configuration as trial"
"""In the reason of a trial that is not trained: the next one is drawn at random."""
PATIENCE = 5
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
        memory: Memory,
        sampler: SamplerName,
        seed: int,
        earlier: Sequence[Observation] = (),
        flat: float | None = None,
    ) -> None:
        self.study, self.space, self.complete = study, space, complete
        self.budget, self.memory = budget, memory
        self.sampler, self.seed = sampler, seed
        self.earlier, self.flat = list(earlier), flat

    def ask(self) -> optuna.Trial | None:
        """The next trial, at random after a repeat; None where none is worth its while."""
        trials = self.study.get_trials(deepcopy=False)
        first = next((trial for trial in trials if trial.state == TrialState.WAITING), None)
        seed = make_seed(self.seed, len(trials) if first is None else first.number)
        proposal = Proposal({})
        if self.sampler == "ehvi" and first is None:
            known, random = self.memory.known(), np.random.default_rng(seed)
            proposal = propose(self.space, known, self.earlier, self._costs_of, random)
            if self._is_flat(trials, proposal):
                return None
            if proposal.params:  # queued: a driver that dies before asking has lost nothing
                self.study.enqueue_trial(dict(proposal.params), user_attrs={GAIN: proposal.gain})
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
        fixed = trial.system_attrs.get("fixed_params", {})
        for name, distribution in trial.distributions.items():
            if name not in fixed:
                self.study.sampler.sample_independent(self.study, trial, name, distribution)

    def _costs_of(self, suggested: TrialConfig) -> tuple[float, ...] | None:
        """The costs of a configuration that may be tried; None: unknown, too high, or trained."""
        config = self.complete(suggested)
        foreseen = self.memory.foresee(config)
        if foreseen is None or self.budget.complaint(foreseen):
            return None
        return None if config.digest() in self.memory.trained else self.memory.values(foreseen)

    def _is_flat(self, trials: Sequence[FrozenTrial], proposal: Proposal) -> bool:
        """Whether this proposal and those before it promise next to nothing."""
        if self.flat is None or proposal.gain is None:
            return False
        gains = [gain for trial in trials if (gain := trial.user_attrs.get(GAIN)) is not None]
        last = [*gains, proposal.gain][-PATIENCE:]
        return len(last) == PATIENCE and max(last) < self.flat
