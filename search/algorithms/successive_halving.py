"""Asynchronous successive halving ranked by non-domination, as a pure function of its log.

ASHA (Li et al. 2020, arXiv 1810.05934) for several objectives, after MO-ASHA (Schmucker et al.
2021, arXiv 2106.12639): trials at a rung are sorted by non-dominated rank, equal ranks by an
epsilon-net. Two things differ from MO-ASHA: no non-dominated trial is stopped, so that both ends of
the front are kept, and the uncertainty of early values is estimated from finished trials.
"""

import math
from collections.abc import Iterable, Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from search.core.record import RungDecision

MinimizedValues = Sequence[float]
"""Objective values, signed so that less is better; a value that is not finite is the worst."""


CONFIDENCE_WIDTH = 1.0
"""Residual standard deviations by which the value of a trial at a rung is improved."""
MIN_FINISHED = 4
"""Finished trials that must have passed a rung before its uncertainty is estimated."""
MAX_FINISHED = 1024
"""The latest finished trials, by which the uncertainty of a rung is estimated."""
MIN_RUNG_EPOCHS = 0.75
"""Epochs that may be rounded up to one."""


def rung_epochs(max_epochs: int, grace_epochs: int = 1, reduction: float = 3) -> tuple[int, ...]:
    """Epochs after which trials are compared: a `reduction`-th, its square, ... of the whole.

    Raises:
        ValueError: a number is out of its range.
    """
    if reduction <= 1:
        raise ValueError(f"reduction > 1 must hold, but got reduction={reduction}")
    if grace_epochs < 1:
        raise ValueError(f"grace_epochs >= 1 must hold, but got grace_epochs={grace_epochs}")
    rungs: list[int] = []
    epoch = max_epochs / reduction
    while epoch > MIN_RUNG_EPOCHS and round(epoch) >= grace_epochs:
        rungs.append(round(epoch))
        epoch /= reduction
    return tuple(sorted(set(rungs) - {max_epochs}))


class SuccessiveHalving:
    """Decides at each rung which trials are promoted.

    At a rung, about one in `reduction` of the trials that have reached it is promoted, and so is
    each trial that no other dominates. A trial promoted at the last rung is trained to the end.

    The uncertainty of a rung is estimated for each objective by a straight line through the
    finished trials' values at the rung and at their end. A trial is ranked as if its value were
    better by `confidence_width` standard deviations of the residuals about that line, which are 0
    for an objective that does not change. Until some trials have finished, all are promoted. With a
    `confidence_width` of 0 the values at rungs are taken as they are, as in MO-ASHA.
    """

    def __init__(
        self,
        rungs: Iterable[int],
        end: int,
        reduction: float = 3,
        confidence_width: float = CONFIDENCE_WIDTH,
    ) -> None:
        self.end, self.reduction, self.confidence_width = end, reduction, confidence_width
        self.num_decisions = 0
        self.rung_decisions: dict[int, dict[str, RungDecision]] = {
            rung: {} for rung in sorted({*rungs, end}, reverse=True)
        }
        self.values = {rung: Rows() for rung in self.rung_decisions}

    def report(
        self, trial_id: str, epoch: int, minimized_values: MinimizedValues
    ) -> RungDecision | None:
        """The decision at the highest rung that a trial has reached; None if it was made before.

        A rung between two reports of a trial has no decision on it. The last rung, `end`, is the
        end of training.
        """
        for rung, rung_decisions in self.rung_decisions.items():
            if epoch < rung:
                continue
            if trial_id in rung_decisions:
                return None
            promoted = rung == self.end or self._is_promoted(rung, minimized_values)
            decision = RungDecision(
                trial_id, rung, self.num_decisions, tuple(minimized_values), promoted
            )
            rung_decisions[trial_id] = decision
            self.values[rung].append(minimized_values)
            self.num_decisions += 1
            return decision
        return None

    def replay(self, log: Iterable[RungDecision]) -> None:
        """Makes the decisions of an earlier `SuccessiveHalving` again; the log has any order."""
        for decision in sorted(log, key=lambda decision: decision.sequence_number):
            self.num_decisions = decision.sequence_number
            self.report(decision.trial_id, decision.rung, decision.minimized_values)

    def _is_promoted(self, rung: int, minimized_values: MinimizedValues) -> bool:
        if not np.isfinite(minimized_values).all():
            return False
        optimistic_values = np.array(minimized_values) - (
            self.confidence_width * self._residual_std(rung) if self.confidence_width else 0.0
        )
        if not np.isfinite(optimistic_values).all():
            return True
        others = self.values[rung].rows
        return is_promoted(tuple(optimistic_values), others, self.reduction)

    def _residual_std(self, rung: int) -> NDArray[np.float64]:
        """By objective, the standard deviation of a rung's values about the fitted line."""
        ends = self.rung_decisions[self.end]
        at_rung = self.rung_decisions[rung]
        pairs = np.array(
            [
                (at_rung[trial_id].minimized_values, end.minimized_values)
                for trial_id, end in list(ends.items())[-MAX_FINISHED:]
                if trial_id in at_rung
            ]
        )
        pairs = pairs[np.isfinite(pairs[:, 1]).all(axis=1)] if len(pairs) else pairs
        if len(pairs) < MIN_FINISHED:
            return np.full(1, np.inf)
        early, late = pairs.transpose(1, 2, 0)
        return np.array(
            [residual_std_about_line(*values) for values in zip(early, late, strict=True)]
        )


class Rows:
    """An array to which rows of numbers are appended."""

    def __init__(self) -> None:
        self.array, self.length = np.empty((0, 0)), 0

    @property
    def rows(self) -> NDArray[np.float64]:
        """All rows (N,D)."""
        return self.array[: self.length]

    def append(self, row: Sequence[float]) -> None:
        if self.length == len(self.array):
            larger = np.empty((max(64, 2 * self.length), len(row)))
            if self.length:
                larger[: self.length] = self.rows
            self.array = larger
        self.array[self.length] = row
        self.length += 1


def residual_std_about_line(early: NDArray[np.float64], late: NDArray[np.float64]) -> float:
    """Standard deviation (in units of `early`, (N,)) about the line from `early` to `late`.

    Infinite where the line does not rise, so that `early` does not predict `late`.
    """
    if (early == late).all():
        return 0.0
    run, rise = early - early.mean(), late - late.mean()
    square, product = float((run**2).sum()), float((run * rise).sum())
    if product <= 0:
        return math.inf
    slope = product / square
    return math.sqrt(float(((rise - slope * run) ** 2).sum()) / (len(early) - 2)) / slope


def is_promoted(
    own: MinimizedValues,
    others: Sequence[MinimizedValues] | NDArray[np.float64],
    reduction: float,
) -> bool:
    """Whether a trial is among the best of a rung, the first ceil(n / reduction) of n."""
    if not np.isfinite(own).all():
        return False
    points = np.vstack([own, others]) if len(others) else np.array([own], dtype=np.float64)
    points = points[np.isfinite(points).all(axis=1)]
    ranks = np.asarray(moocore.pareto_rank(points))
    if ranks[0] == 0:
        return True
    room = math.ceil((1 + len(others)) / reduction) - int((ranks < ranks[0]).sum())
    equals = np.flatnonzero(ranks == ranks[0])
    if room >= len(equals):
        return True
    return room > 0 and 0 in equals[epsilon_net(points[equals], room)]


def epsilon_net(points: NDArray[np.float64], count: int) -> list[int]:
    """Rows of `points` (N,D) far apart: the end of each objective, then always the farthest.

    Distances are between places in the order of each objective, so that units do not matter.
    """
    places = np.argsort(np.argsort(points, axis=0, kind="stable"), axis=0, kind="stable")
    chosen = list(dict.fromkeys(int(row) for row in places.argmin(axis=0)))[:count]
    while len(chosen) < count:
        apart = np.abs(places[:, None] - places[chosen]).sum(axis=2).min(axis=1)
        chosen.append(int(apart.argmax()))
    return chosen
