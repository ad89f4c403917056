"""Candidates from a space without an Optuna study: random ones, or neighbours of others."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from spaces import PointsToEvaluate, Space
from trainables.config import TrialConfig

Params = Mapping[str, Any]
Distributions = Mapping[str, BaseDistribution]
STEP = 0.15
"""Standard deviation of a step to a neighbour, as a share of a parameter's range."""
CHANGED = 0.4
"""Share of the parameters that a neighbour changes."""
ABSENT = object()
STEP_TOLERANCE = 1e-8
"""Tolerance, in steps, for a value between two steps of its range, as in Optuna itself."""


class SamplingTrial(optuna.trial.FixedTrial):
    """An Optuna trial for calling a space: takes given values, and draws the others at random.

    A given value outside its range is replaced by a random one.
    """

    def __init__(self, given: Params, random: np.random.Generator) -> None:
        super().__init__(dict(given))
        self.given, self.random = given, random
        self.suggested: dict[str, Any] = {}
        self.known_distributions: dict[str, BaseDistribution] = {}

    @property
    def params(self) -> dict[str, Any]:
        return self.suggested

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return self.known_distributions

    def suggest_float(
        self,
        name: str,
        low: float,
        high: float,
        *,
        step: float | None = None,
        log: bool = False,
    ) -> float:
        return float(self.suggest(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self.suggest(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.suggest(name, CategoricalDistribution(choices))

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """The value of a parameter, which stays the same if it is asked for again."""
        if name not in self.known_distributions:
            given = self.given.get(name, ABSENT)
            self.known_distributions[name] = distribution
            self.suggested[name] = (
                given
                if contains(distribution, given)
                else from_unit(self.random.random(), distribution)
            )
        return self.suggested[name]


def sample_config(space: Space, params: Params, seed: int = 0) -> tuple[TrialConfig, SamplingTrial]:
    """The configuration that a space gives for parameters; missing ones are drawn at random."""
    drawn = SamplingTrial(params, np.random.default_rng(seed))
    return space(cast(optuna.Trial, drawn)), drawn


def perturb(params: Params, distributions: Distributions, random: np.random.Generator) -> Params:
    """A neighbour, with a random step in some of the parameters, at least one."""
    names = list(distributions)
    chosen = random.random(len(names)) < CHANGED
    chosen[random.integers(len(names))] = True
    changed = dict(params)
    for name, change in zip(names, chosen, strict=True):
        distribution = distributions[name]
        if change and isinstance(distribution, CategoricalDistribution):
            changed[name] = from_unit(random.random(), distribution)
        elif change:
            further = to_unit(params[name], distribution) + random.normal(0, STEP)
            changed[name] = from_unit(float(np.clip(further, 0, 1)), distribution)
    return changed


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value is one that a parameter may have."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not isinstance(value, int | float) or not distribution.low <= value <= distribution.high:
        return False
    if isinstance(distribution, IntDistribution):
        return (value - distribution.low) % distribution.step == 0
    if distribution.step is None:
        return True
    num_steps = (value - distribution.low) / distribution.step
    return abs(num_steps - round(num_steps)) < STEP_TOLERANCE


def are_representable(distribution: BaseDistribution, values: Sequence[Any]) -> list[bool]:
    """Whether values can be scaled as a parameter of this kind, even if they are out of range."""
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        return [value in choices for value in values]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    least = 0 if distribution.log else -math.inf
    return [isinstance(value, (int, float)) and value > least for value in values]


def to_unit(value: Any, distribution: BaseDistribution) -> float:
    """A value scaled to [0,1] within its range; choices are scaled in their order."""
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.choices.index(value) + 0.5) / len(distribution.choices)
    low, high = unit_bounds(distribution)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    value = np.log(value) if distribution.log else value
    return float((value - low) / (high - low)) if high > low else 0.5


def to_units(values: Sequence[Any], distribution: BaseDistribution) -> NDArray[np.float64]:
    """The same for many values (N,) that can be scaled."""
    if isinstance(distribution, CategoricalDistribution) or not values:
        return np.array([to_unit(value, distribution) for value in values])
    low, high = unit_bounds(distribution)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    scaled = np.array(values, np.float64)
    scaled = np.log(scaled) if distribution.log else scaled
    return (scaled - low) / (high - low) if high > low else np.full(len(values), 0.5)


def from_unit(place: float, distribution: BaseDistribution) -> Any:
    """The inverse of `to_unit`; choices and integers have equal shares of [0,1]."""
    if isinstance(distribution, CategoricalDistribution):
        count = len(distribution.choices)
        return distribution.choices[min(int(place * count), count - 1)]
    low, high = unit_bounds(distribution)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    value = low + place * (high - low)
    value = np.exp(value) if distribution.log else value
    if distribution.step is not None:
        value = distribution.low + distribution.step * round(
            (value - distribution.low) / distribution.step
        )
    value = min(max(value, distribution.low), distribution.high)
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


def unit_bounds(distribution: BaseDistribution) -> tuple[float, float]:
    """The bounds of a range on its own scale, extended by half a step where it has steps."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    margin = (distribution.step or 0) / 2
    low, high = distribution.low - margin, distribution.high + margin
    return (float(np.log(low)), float(np.log(high))) if distribution.log else (low, high)


NUM_SAMPLES = 64
"""Configurations drawn from a space to estimate the range of its costs."""


def sample_configs(
    space: Space, known: PointsToEvaluate, seed: int
) -> list[tuple[TrialConfig, SamplingTrial]]:
    """Configurations of a space: its points to evaluate first, then random ones."""
    settings: list[Params] = [*known, *[{}] * (NUM_SAMPLES - len(known))]
    return [sample_config(space, params, seed + index) for index, params in enumerate(settings)]


def find_cheapest(
    space: Space, cost: Callable[[TrialConfig], float], known: PointsToEvaluate
) -> TrialConfig:
    """The cheapest configuration, found by coordinate descent.

    From the cheapest of some samples, one parameter after another is set to the bound or to the
    choice that costs least, until the cost no longer falls: exact where the cost is monotonic.
    """
    best, trial = min(sample_configs(space, known, seed=0), key=lambda drawn: cost(drawn[0]))
    improved = True
    while improved:
        improved = False
        for name, distribution in trial.distributions.items():
            for value in extreme_values(distribution):
                changed, changed_trial = sample_config(space, {**trial.params, name: value})
                if cost(changed) < cost(best):
                    best, trial, improved = changed, changed_trial, True
    return best


def extreme_values(distribution: BaseDistribution) -> Iterator[Any]:
    """The choices, or the least and the greatest value."""
    if isinstance(distribution, CategoricalDistribution):
        yield from distribution.choices
    else:
        yield from (distribution.low, distribution.high)  # type: ignore[attr-defined]
