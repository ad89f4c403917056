"""Proposes the candidate of greatest expected hypervolume improvement, with exact costs.

mIoU is modelled by a forest of extremely randomized trees (Geurts et al. 2006) over the parameters,
much as in SMAC (Hutter et al. 2011); sizes, multiply-adds and latencies are exact. The spread of
the trees is the uncertainty in the expected hypervolume improvement (Emmerich et al. 2006). Final
mIoU is seen with the noise of its seed, and is drawn to the forest's mean before it is improved on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

import moocore
import numpy as np
from numpy.typing import NDArray

from search.algorithms.candidates import (
    ABSENT,
    Distributions,
    Params,
    are_representable,
    perturb,
    sample_config,
    to_units,
)
from search.algorithms.observations import Floats, Observation, final_mious
from search.core.pareto import REFERENCE_MARGIN, cost_range_of, normalize_log_costs
from spaces import Space
from trainables.config import TrialConfig

if TYPE_CHECKING:
    from sklearn.tree import ExtraTreeRegressor

CostsOf = Callable[[TrialConfig], tuple[float, ...] | None]
NUM_START = 8
"""Initial trials, spread over the costs, before mIoU is modelled."""
RANDOM_SHARE = 0.125
"""Share of later proposals that are random, since the model may be wrong in some regions."""
NUM_RANDOM, NUM_NEIGHBOURS = 56, 32
"""Candidates of a proposal."""
NUM_FURTHER = 8
"""Candidates of either kind for each further proposal of a batch."""
NUM_TREES = 20
SHRINKAGE = 0.5
"""How far a final mIoU is drawn to the forest's mean, since it carries the noise of its seed: the
best of many trials are the lucky ones, which others would seem unable to improve on."""
MAX_ROWS = 256
"""The latest trials that the forest is fitted to; more cost more time than they improve it."""
MAX_RECENT = 4 * MAX_ROWS
"""The latest trials among which those are chosen, and whose ends say what early values promise."""
MAX_FINISHED = 256
"""The finished trials, best first, that may be on the front once the forest corrects their mIoU."""


@dataclass(frozen=True)
class Proposal:
    """Parameters to try, and their expected improvement as a share of the hypervolume."""

    params: Params
    acquisition_value: float | None = None


def propose(
    space: Space,
    observations: Sequence[Observation],
    warm_start_observations: Sequence[Observation],
    costs_of: CostsOf,
    random: np.random.Generator,
    least_miou: float = 0.0,
    count: int = 1,
) -> list[Proposal]:
    """The candidate of greatest expected improvement; at first, candidates spread over the costs.

    A hypervolume counts from `least_miou`. While nothing is expected to reach it, the candidate of
    the greatest expected mIoU is proposed.

    A batch of up to `count`, at least one, is proposed at once, each as if those before it were
    running (Ginsbourger et al. 2010). Random ones are its last.

    `warm_start_observations` are finished trials of another study, which may have had other
    parameters and another level of mIoU. `costs_of` gives the objectives except mIoU, or None for a
    configuration that must not be tried.
    """
    seed = int(random.integers(2**31))
    further = NUM_FURTHER * (count - 1)
    drawn = draw_candidates(space, [], NUM_RANDOM + further, costs_of, random)
    if not drawn:
        return [Proposal({})]
    recent = observations[-MAX_RECENT:]
    estimates = final_mious(recent)
    is_known = np.isfinite(estimates)
    known = [o for o, known in zip(recent, is_known.tolist(), strict=True) if known]
    estimates = estimates[is_known]
    if len(observations) + len(warm_start_observations) < NUM_START or not (
        known or warm_start_observations
    ):
        chosen = list[Observation]()
        while drawn and len(chosen) < count:
            chosen.append(drawn.pop(farthest_in_cost(drawn, [*observations, *chosen])))
        return [Proposal(each.params) for each in chosen]
    num_random = int((random.random(count) < RANDOM_SHARE).sum())
    at_random = [Proposal(candidate.params) for candidate in drawn[:num_random]]
    count -= num_random
    if not count:
        return at_random
    learned = [*warm_start_observations, *known][-MAX_ROWS:]
    distributions = {n: d for each in learned for n, d in each.distributions.items()}
    distributions |= drawn[0].distributions  # the space's own, which may differ from an earlier one
    learners = [not o.failed for o in known]
    levels = [o for o, learns in zip(known, learners, strict=True) if learns]
    shifted = shift_to_current_level(
        warm_start_observations, levels, estimates[learners], distributions, seed
    )
    mious = np.concatenate([shifted, estimates])[-MAX_ROWS:]
    parents = nondominated(learned, mious)
    others = (NUM_NEIGHBOURS if parents else NUM_RANDOM) + further
    drawn = drawn[num_random:]
    candidates = [*drawn, *draw_candidates(space, parents, others, costs_of, random)]
    forest = fit_forest(learned, mious, distributions, seed)
    # Only trials that have a model, or may still get one, can be on the front
    finished = [o for o in observations if o.final is not None and not o.failed]
    alive = [*(o for o in observations if o.running), *nearest_front(finished)]
    if all(o.failed for o in learned):  # there is no mIoU of a model to compare with
        return [*(Proposal(candidate.params) for candidate in candidates[:count]), *at_random]
    guessed = predict_by_tree(forest, alive, distributions)
    finals = np.array([np.nan if o.final is None else o.final for o in alive]).reshape(-1, 1)
    shrunk = (1 - SHRINKAGE) * finals + SHRINKAGE * guessed.mean(axis=1, keepdims=True)
    current = np.where(np.isnan(finals), guessed, shrunk)
    fails = predict_failures(learned, candidates, distributions, seed)
    expected = np.where(fails, 0.0, predict_by_tree(forest, candidates, distributions))
    if max(current.max(initial=0.0), expected.max()) <= least_miou:  # no volume to improve on yet
        rows = (-expected.mean(axis=1)).argsort(kind="stable")[:count]
        return [*(Proposal(candidates[int(row)].params) for row in rows), *at_random]
    new_costs = np.array([candidate.costs for candidate in candidates])
    costs = np.array([o.costs for o in alive]).reshape(-1, new_costs.shape[1])
    best_first, is_left = list[Proposal](), np.ones(len(candidates), np.bool_)
    while len(best_first) < count and is_left.any():
        improvements = expected_hypervolume_improvement(
            current, costs, expected, new_costs, least_miou
        )
        best = int(np.where(is_left, improvements, -1.0).argmax())
        best_first.append(Proposal(candidates[best].params, float(improvements[best])))
        is_left[best] = False
        current, costs = np.vstack([current, expected[best]]), np.vstack([costs, new_costs[best]])
    return [*best_first, *at_random]


def draw_candidates(
    space: Space,
    parents: Sequence[Observation],
    count: int,
    costs_of: CostsOf,
    random: np.random.Generator,
) -> list[Observation]:
    """Candidates: neighbours of `parents`, or random points where there are no parents.

    Candidates for which the space raises are left out; the error is reported when they are asked.
    """
    candidates = []
    for _ in range(count):
        given: Params = {}
        if parents:
            parent = parents[int(random.integers(len(parents)))]
            given = perturb(parent.params, parent.distributions, random)
        try:
            config, drawn = sample_config(space, given, int(random.integers(2**31)))
            costs = costs_of(config)
        except Exception:
            continue
        if costs is not None:
            candidates.append(Observation(drawn.params, drawn.distributions, costs))
    return candidates


def nondominated(learned: Sequence[Observation], mious: Floats) -> list[Observation]:
    """The non-dominated observations by the given mIoU, among those that may have a model."""
    rows = [row for row, o in enumerate(learned) if not o.failed]
    if not rows:
        return []
    losses = np.column_stack([-mious[rows], np.array([learned[row].costs for row in rows])])
    return [learned[rows[int(row)]] for row in np.flatnonzero(moocore.is_nondominated(losses))]


def nearest_front(finished: Sequence[Observation]) -> Sequence[Observation]:
    """The first `MAX_FINISHED` in the order of non-dominated ranks."""
    if len(finished) <= MAX_FINISHED:
        return finished
    losses = np.array([(-(o.final or 0.0), *o.costs) for o in finished])
    ranks = np.asarray(moocore.pareto_rank(losses))
    return [finished[int(row)] for row in ranks.argsort(kind="stable")[:MAX_FINISHED]]


def farthest_in_cost(drawn: Sequence[Observation], others: Sequence[Observation]) -> int:
    """The row of the cheapest candidate where there are no others, else of the one farthest away.

    Distances are between logarithms of costs.
    """
    places = np.log([candidate.costs for candidate in drawn])
    if not others:
        return int(places.sum(axis=1).argmin())
    apart = np.abs(places[:, None] - np.log([o.costs for o in others])).sum(axis=2).min(axis=1)
    return int(apart.argmax())


def shift_to_current_level(
    warm_start_observations: Sequence[Observation],
    known: Sequence[Observation],
    estimates: Floats,
    distributions: Distributions,
    seed: int,
) -> Floats:
    """mIoU of an earlier study's trials (N,), shifted by the mean difference to this study."""
    mious = np.array([o.final for o in warm_start_observations], dtype=np.float64)
    if not warm_start_observations or not known:
        return mious
    expected = predict_by_tree(
        fit_forest(warm_start_observations, mious, distributions, seed), known, distributions
    ).mean(axis=1)
    return mious + float((estimates - expected).sum()) / (len(known) + 1)


def fit_forest(
    points: Sequence[Observation], mious: Floats, distributions: Distributions, seed: int
) -> "list[ExtraTreeRegressor]":
    """Trees fitted to the mIoU (N,) of points.

    They are those of scikit-learn's `ExtraTreesRegressor` with this seed, which would copy and
    check parameters for as long as it fits.
    """
    from sklearn import config_context  # takes seconds that first trials need not
    from sklearn.tree import ExtraTreeRegressor

    rows, random = encode(points, distributions), np.random.RandomState(seed)
    seeds = [random.randint(np.iinfo(np.int32).max) for _ in range(NUM_TREES)]
    with config_context(assume_finite=True, skip_parameter_validation=True):
        return [
            ExtraTreeRegressor(min_samples_leaf=2, random_state=each).fit(
                rows, mious, check_input=False
            )
            for each in seeds
        ]


def predict_by_tree(
    forest: "list[ExtraTreeRegressor]", points: Sequence[Observation], distributions: Distributions
) -> Floats:
    """The prediction of each tree for each point, (N, trees)."""
    if not points:
        return np.zeros((0, NUM_TREES))
    rows = encode(points, distributions)
    # A tree's own `predict` checks the rows again
    return np.column_stack([tree.tree_.predict(rows) for tree in forest])


def predict_failures(
    learned: Sequence[Observation],
    candidates: Sequence[Observation],
    distributions: Distributions,
    seed: int,
) -> NDArray[np.bool_]:
    """Whether each candidate fails and has no model, as predicted by each tree, (C, trees)."""
    failed = np.array([float(o.failed) for o in learned])
    if not failed.any():
        return np.zeros((len(candidates), NUM_TREES), np.bool_)
    return (
        predict_by_tree(fit_forest(learned, failed, distributions, seed), candidates, distributions)
        >= 0.5
    )


def encode(points: Sequence[Observation], distributions: Distributions) -> NDArray[np.float32]:
    """Parameters scaled to [0,1] (N,P), -1 where a point does not have a parameter."""
    rows = np.full((len(points), len(distributions)), -1.0, np.float32)
    for column, (name, distribution) in enumerate(distributions.items()):
        values = [point.params.get(name, ABSENT) for point in points]
        known = are_representable(distribution, values)
        rows[known, column] = to_units(list(compress(values, known)), distribution)
    return rows


def expected_hypervolume_improvement(
    mious: Floats, costs: Floats, new_mious: Floats, new_costs: Floats, least_miou: float = 0.0
) -> Floats:
    """The expected improvement of the hypervolume by each candidate, as a share of it.

    `mious` (N,S) and `new_mious` (C,S) are predictions of the same S trees, so that predictions for
    running trials and for candidates are correlated. `costs` (N,D-1) and `new_costs` (C,D-1) count
    by their logarithms, scaled from the least to the greatest of all of them. mIoU counts from
    `least_miou`.
    """
    every = np.vstack([costs, new_costs])
    places = normalize_log_costs(every, cost_range_of(every))
    volume = moocore.Hypervolume(ref=[-least_miou, *[REFERENCE_MARGIN] * costs.shape[1]])
    total, improvements = 0.0, np.zeros(len(new_costs))
    for miou, new_miou in zip(mious.T, new_mious.T, strict=True):
        front = np.column_stack([-miou, places[: len(costs)]])
        front = front[moocore.is_nondominated(front)] if len(front) else front
        before = volume(front) if len(front) else 0.0
        total += before
        new = np.column_stack([-new_miou, places[len(costs) :]])
        is_dominated = np.any(np.all(front <= new[:, None], axis=2), axis=1)
        for row in np.flatnonzero(~is_dominated):
            improvements[row] += volume(np.vstack([front, new[row]])) - before
    return improvements / (total or len(mious.T))
