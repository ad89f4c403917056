"""What a search is given: the space with the costs of its configurations, and how to sample it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from search.algorithms.observations import Observation, TrialHistory
from search.core.config import SamplerName
from search.core.constraints import Budget, Costs
from search.core.objectives import MIOU_AND_SIZE, Objective
from spaces import Space
from trainables.config import TrialConfig


@dataclass(frozen=True)
class SearchProblem:
    """A space, what its configurations cost, and what is wanted of them."""

    space: Space
    complete: Callable[[TrialConfig], TrialConfig]
    """Fills in what the study fixes for all trials (epochs, seed, ...)."""
    predict_cost: Callable[[TrialConfig], Costs]
    """Gives what a completed configuration will cost."""
    predict_cost_if_known: Callable[[TrialConfig], Costs | None]
    """The same, or None where a latency would have to be measured."""
    objectives: Sequence[Objective] = MIOU_AND_SIZE
    budget: Budget = field(default_factory=Budget)
    """What is beyond it is told to the sampler, and never trained."""
    commonest_miou: float = 0.0
    """Of predicting the commonest class, as a failed training has."""

    def new_history(self) -> TrialHistory:
        """What is known of a study without trials."""
        return TrialHistory(self.objectives, self.predict_cost_if_known, self.commonest_miou)


@dataclass(frozen=True)
class SamplerSettings:
    """How the next trial is proposed."""

    sampler: SamplerName
    seed: int
    improvement_bar: float | None = None
    """Ends the search when proposals promise less, as a share of the hypervolume."""
    warm_start_observations: Sequence[Observation] = ()
    """Trials of another study, for the sampler to begin with."""
