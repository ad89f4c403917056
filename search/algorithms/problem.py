"""The problem of a search (a space and the costs of its configurations), and sampler settings."""

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
    """A space, the costs of its configurations, the objectives, and the budget."""

    space: Space
    complete: Callable[[TrialConfig], TrialConfig]
    """Sets the fields that the study fixes for all trials (epochs, seed, ...)."""
    predict_cost: Callable[[TrialConfig], Costs]
    """Gives the costs of a completed configuration."""
    predict_cost_if_known: Callable[[TrialConfig], Costs | None]
    """The same, or None where a latency would have to be measured."""
    objectives: Sequence[Objective] = MIOU_AND_SIZE
    budget: Budget = field(default_factory=Budget)
    """Configurations over it are reported to the sampler and never trained."""
    commonest_miou: float = 0.0
    """The mIoU of predicting the commonest class, which a failed training gets."""
    least_miou: float = 0.0
    """The mIoU from which a hypervolume counts."""

    def new_history(self) -> TrialHistory:
        """The empty history of a study without trials."""
        return TrialHistory(self.objectives, self.predict_cost_if_known, self.commonest_miou)


@dataclass(frozen=True)
class SamplerSettings:
    """How the next trial is proposed."""

    sampler: SamplerName
    seed: int
    improvement_bar: float | None = None
    """Ends the search when acquisition values stay below it, as a share of the hypervolume."""
    warm_start_observations: Sequence[Observation] = ()
    """Trials of another study that the sampler starts with."""
