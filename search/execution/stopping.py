"""Ray Tune stoppers: the end of the time budget, and trials that do not stop when asked to."""

import math
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.tune.stopper import NoopStopper, Stopper

from search.execution.ray_internals import actor_of
from search.execution.shutdown import GracefulShutdown
from trainables.trainable import EPOCH

NEARLY_DONE = 0.8
"""Share of a training from which on it continues when the time budget is over."""
OVERTIME = 0.1
"""Additional time for such trainings, as a share of the time budget."""


class StopAll(Stopper):
    """Stops the trainings that have not ended within the grace period."""

    def __init__(self, shutdown: GracefulShutdown) -> None:
        self.shutdown = shutdown
        self.trials: Sequence[Any] = ()
        """Ray's."""

    def __call__(self, trial_id: str, result: dict[str, object]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.shutdown.grace_expired:  # Ray would wait for them for another 10 s
            for trial in self.trials:
                if actor := actor_of(trial):
                    ray.kill(actor)
        return self.shutdown.grace_expired

    # There is no state for Ray's snapshots
    def __reduce__(self) -> tuple[type[Stopper], tuple[()]]:
        return NoopStopper, ()


class Deadline(Stopper):
    """The end of the time budget: no more trials are started, and only nearly finished ones go on.

    A trial that reports after the end is stopped unless it has little left. After a tenth of the
    budget more, all trials are stopped.
    """

    def __init__(self, budget_s: float | None, num_epochs: int) -> None:
        self.budget_s, self.num_epochs = budget_s, num_epochs
        self.begin = time.monotonic()

    def start(self) -> None:
        """Starts the clock."""
        self.begin = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.left_s <= 0

    @property
    def left_s(self) -> float:
        """Seconds that are left; infinitely many without a budget."""
        return math.inf if self.budget_s is None else self.begin + self.budget_s - time.monotonic()

    @property
    def last_s(self) -> float | None:
        """Seconds after which all trials are stopped."""
        return None if self.budget_s is None else (1 + OVERTIME) * self.budget_s

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.is_over and result.get(EPOCH, math.inf) < NEARLY_DONE * self.num_epochs

    def stop_all(self) -> bool:
        return False
