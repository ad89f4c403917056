"""Proposes what is expected to enlarge the front most, the exact costs of proposals being known.

mIoU is learned by a forest of extremely randomized trees (Geurts et al. 2006) over the parameters,
much as SMAC does (Hutter et al. 2011); sizes, multiply-adds and latencies are exact. The trees'
disagreement stands for uncertainty in the expected hypervolume improvement (Emmerich et al. 2006).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import moocore
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from search.drawing import Distributions, Drawn, Params, configure, near, place_of
from search.front import BEYOND, log_places
from search.observation import Floats, Observation, final_mious
from spaces import Space
from trainables.config import TrialConfig

CostsOf = Callable[[TrialConfig], tuple[float, ...] | None]
NUM_START = 8
"""Trials with a value before proposals are more than random."""
RANDOM_SHARE = 0.125
"""Of proposals that stay random: no model is right everywhere."""
NUM_CANDIDATES = 64
NUM_TREES = 20
NUM_QUANTILES = 5
MAX_ROWS = 256
"""Trials that are learned from at most, the latest: more take longer than they teach."""


@dataclass(frozen=True)
class Proposal:
    """Parameters to try, and the share by which they are expected to enlarge the hypervolume."""

    params: Params
    gain: float | None = None


def propose(
    space: Space,
    observations: Sequence[Observation],
    earlier: Sequence[Observation],
    costs_of: CostsOf,
    random: np.random.Generator,
) -> Proposal:
    """The candidate of largest expected gain; early, and now and then, just a random one.

    `earlier` are finished trials of another study, which may have had other parameters and another
    level of mIoU. `costs_of` gives the objectives but mIoU, or None for what must not be tried.
    """
    seed = int(random.integers(2**31))
    estimates = final_mious(observations)
    known = [o for o, miou in zip(observations, estimates, strict=True) if np.isfinite(miou)]
    pending = [o for o, miou in zip(observations, estimates, strict=True) if np.isnan(miou)]
    estimates = estimates[np.isfinite(estimates)]
    if len(observations) + len(earlier) < NUM_START or not (known or earlier):
        return Proposal(explore(space, observations, costs_of, random))
    if random.random() < RANDOM_SHARE:
        return Proposal({})
    names = sorted({name for o in (*known, *earlier) for name in o.params})
    learned = [*earlier, *known][-MAX_ROWS:]
    mious = np.concatenate([aligned(earlier, known, estimates, names, seed), estimates])[-MAX_ROWS:]
    candidates, costs = draw_candidates(space, learned, mious, costs_of, random)
    if not candidates:
        return Proposal({})
    forest = fit(learned, mious, names, seed)
    fantasies = predict(forest, pending, names).mean(axis=1)
    points = np.column_stack(
        [
            np.concatenate([estimates, fantasies]),
            np.array([o.costs for o in [*known, *pending]]).reshape(-1, costs.shape[1]),
        ]
    )
    gains = expected_gains(points, predict(forest, candidates, names), costs)
    best = int(gains.argmax())
    return Proposal(candidates[best].params, float(gains[best]))


def explore(
    space: Space,
    observations: Sequence[Observation],
    costs_of: CostsOf,
    random: np.random.Generator,
) -> Params:
    """Before anything is learned: the cheapest of some random points, then those far from others.

    Distances are between logarithms of costs.
    """
    drawn = [configure(space, {}, int(random.integers(2**31))) for _ in range(NUM_CANDIDATES)]
    known = [(cost, point) for config, point in drawn if (cost := costs_of(config)) is not None]
    if not known:
        return {}
    places = np.log([cost for cost, _ in known])
    if not observations:
        return known[int(places.sum(axis=1).argmin())][1].params
    others = np.log([o.costs for o in observations])
    apart = np.abs(places[:, None] - others).sum(axis=2).min(axis=1)
    return known[int(apart.argmax())][1].params


def aligned(
    earlier: Sequence[Observation],
    known: Sequence[Observation],
    estimates: Floats,
    names: Sequence[str],
    seed: int,
) -> Floats:
    """mIoU of an earlier study's trials (N,) at the level of this one's, by their mean distance."""
    mious = np.array([o.final for o in earlier], dtype=np.float64)
    if not earlier or not known:
        return mious
    expected = predict(fit(earlier, mious, names, seed), known, names).mean(axis=1)
    return mious + float((estimates - expected).sum()) / (len(known) + 1)


def draw_candidates(
    space: Space,
    known: Sequence[Observation],
    estimates: Floats,
    costs_of: CostsOf,
    random: np.random.Generator,
) -> tuple[list[Drawn], Floats]:
    """Half random points of the space, half neighbours of those that seem non-dominated."""
    losses = np.column_stack([-estimates, [o.costs for o in known]])
    parents = np.flatnonzero(moocore.is_nondominated(losses))
    drawn, costs = [], []
    for number in range(NUM_CANDIDATES):
        given: Params = {}
        if number % 2:
            parent = known[random.choice(parents)]
            given = near(parent.params, parent.distributions, random)
        config, candidate = configure(space, given, int(random.integers(2**31)))
        if (cost := costs_of(config)) is not None:
            drawn.append(candidate)
            costs.append(cost)
    return drawn, np.array(costs, dtype=np.float64)


class Point(Protocol):
    """What a forest learns from or judges."""

    @property
    def params(self) -> Params: ...
    @property
    def distributions(self) -> Distributions: ...


def fit(
    points: Sequence[Point], mious: Floats, names: Sequence[str], seed: int
) -> ExtraTreesRegressor:
    """A forest that knows the mIoU (N,) of points."""
    forest = ExtraTreesRegressor(NUM_TREES, min_samples_leaf=2, random_state=seed)
    return forest.fit(encode(points, names), mious)


def predict(forest: ExtraTreesRegressor, points: Sequence[Point], names: Sequence[str]) -> Floats:
    """What each tree says of each point, (N, trees)."""
    if not points:
        return np.zeros((0, NUM_TREES))
    rows = encode(points, names)
    return np.column_stack([tree.predict(rows) for tree in forest.estimators_])


def encode(points: Sequence[Point], names: Sequence[str]) -> NDArray[np.float32]:
    """Places in the parameters' ranges (N,P), -1 where a point does not have one."""
    return np.array(
        [
            [
                place_of(point.params[name], point.distributions[name])
                if name in point.params
                else -1.0
                for name in names
            ]
            for point in points
        ],
        dtype=np.float32,
    )


def expected_gains(points: Floats, spread: Floats, costs: Floats) -> Floats:
    """Share by which each candidate is expected to enlarge the hypervolume of `points`.

    `points` (N,D) are mIoU and costs, `spread` (C,S) samples of the candidates' mIoU, `costs`
    (C,D-1). Costs count by their logarithm, from the least to the greatest there is.
    """
    every = np.vstack([points[:, 1:], costs])
    scaled = log_places(every, np.stack([every.min(axis=0), every.max(axis=0)]))
    front = np.column_stack([-points[:, 0], scaled[: len(points)]])
    front = front[moocore.is_nondominated(front)] if len(front) else front
    reference = np.array([0.0] + [BEYOND] * costs.shape[1])
    before = moocore.hypervolume(front, ref=reference) if len(front) else 0.0
    levels = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES
    mious = np.quantile(spread, levels, axis=1).T
    gains = [
        np.mean(
            [
                moocore.hypervolume(np.vstack([front, [-miou, *place]]), ref=reference) - before
                for miou in samples
            ]
        )
        for samples, place in zip(mious, scaled[len(points) :], strict=True)
    ]
    return np.array(gains, dtype=np.float64) / (before or 1.0)
