"""Hard limits, checked before any training is paid for."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search.drawing import Drawn, Params, configure
from spaces import Settings, Space
from trainables.config import TrialConfig
from trainables.frozen import Frozen

DRAWS = 64
"""Configurations drawn to see what a space holds."""


class OverBudget(ValueError):
    """No student of the space meets the budget; the message says what the cheapest costs."""


class Costs(Frozen):
    """What a configuration will cost on the device, known before it is trained."""

    size_bytes: int
    macs: int
    latency_ms: float | None = None


class Budget(Frozen):
    """The most that a student may cost; None: no limit."""

    size_bytes: int | None = None
    macs: int | None = None
    latency_ms: float | None = None

    def excess(self, costs: Costs) -> dict[str, float]:
        """Of each limit, the logarithm of cost by limit: positive where it is broken."""
        limits = {name: limit for name, limit in self if limit is not None}
        return {name: math.log(getattr(costs, name) / limit) for name, limit in limits.items()}

    def complaint(self, costs: Costs) -> str:
        """What is over the budget, in words; empty where nothing is."""
        broken = [name for name, excess in self.excess(costs).items() if excess > 0]
        return ", ".join(
            f"{name} {getattr(costs, name):,.6g}, the limit is {getattr(self, name):,.6g}"
            for name in broken
        )


def draw(space: Space, known: Settings, seed: int) -> list[tuple[TrialConfig, Drawn]]:
    """Points of a space: its known settings, then random ones."""
    settings: list[Params] = [*known, *[{}] * (DRAWS - len(known))]
    return [configure(space, params, seed + index) for index, params in enumerate(settings)]


def least(space: Space, cost: Callable[[TrialConfig], float], known: Settings) -> TrialConfig:
    """The configuration of least cost that can be found.

    From the best of some drawn ones, one parameter after another goes to the end of its range or to
    the choice that costs least, until nothing helps: exact where each acts in one direction.
    """
    best, trial = min(draw(space, known, seed=0), key=lambda drawn: cost(drawn[0]))
    improved = True
    while improved:
        improved = False
        for name, distribution in trial.distributions.items():
            for value in ends(distribution):
                changed, changed_trial = configure(space, {**trial.params, name: value})
                if cost(changed) < cost(best):
                    best, trial, improved = changed, changed_trial, True
    return best


def ends(distribution: BaseDistribution) -> Iterator[Any]:
    """The choices, or the least and the greatest value."""
    if isinstance(distribution, CategoricalDistribution):
        yield from distribution.choices
    else:
        yield from (distribution.low, distribution.high)  # type: ignore[attr-defined]
