"""Asynchronous successive halving ranked by non-domination, as a pure function of its log.

ASHA (Li et al. 2020, arXiv 1810.05934) for several objectives, after MO-ASHA (Schmucker et al.
2021, arXiv 2106.12639): trials at a rung are sorted by non-dominated rank, equal ranks by an
epsilon-net. Unlike there no non-dominated trial is stopped, so that both ends of the front survive
however long it is, and how far early values can be trusted is learned.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

Losses = Sequence[float]
"""Objective values, signed so that less is better; what is not finite is worse than all that is."""


DOUBT = 1.0
"""Standard deviations by which a trial may be better than it looks."""
MIN_FINISHED = 4
"""Trials that must have passed a rung and finished before it is known what it foretells."""
LEAST = 0.75
"""Epochs that may be rounded up to one."""


@dataclass(frozen=True)
class Arrival:
    """One trial at a rung or at its end: the `place`-th of all arrivals, and whether it went on."""

    trial_id: str
    rung: int
    place: int
    losses: tuple[float, ...]
    goes_on: bool


def rungs_of(max_epochs: int, grace_epochs: int = 1, reduction: float = 3) -> tuple[int, ...]:
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
    while epoch > LEAST and round(epoch) >= grace_epochs:
        rungs.append(round(epoch))
        epoch /= reduction
    return tuple(sorted(set(rungs) - {max_epochs}))


class Halving:
    """Says after each rung which trials go on.

    At a rung about one in `reduction` of those that came so far goes on, and all that no other
    dominates. Whoever passes the last rung is trained to the end.

    How far a rung can be trusted is learned: by a straight line through the finished trials' values
    at the rung and at their end, objective by objective. A trial is ranked as if its value were
    better by `doubt` standard deviations of what the line leaves open; nothing is left open of an
    objective that does not change. Until some have finished, all go on. With a `doubt` of 0 values
    at rungs are taken as they are, as in MO-ASHA.
    """

    def __init__(
        self, rungs: Iterable[int], end: int, reduction: float = 3, doubt: float = DOUBT
    ) -> None:
        self.end, self.reduction, self.doubt = end, reduction, doubt
        self.num_arrivals = 0
        self.arrivals: dict[int, dict[str, Arrival]] = {
            rung: {} for rung in sorted({*rungs, end}, reverse=True)
        }

    def report(self, trial_id: str, epoch: int, losses: Losses) -> Arrival | None:
        """The trial's arrival at the highest rung that it has reached; None if that is not new.

        A rung that a trial leapt over does not know it. The last one, `end`, is the training's end.
        """
        for rung, arrivals in self.arrivals.items():
            if epoch < rung:
                continue
            if trial_id in arrivals:
                return None
            goes_on = rung == self.end or self._goes_on(rung, losses)
            arrival = Arrival(trial_id, rung, self.num_arrivals, tuple(losses), goes_on)
            arrivals[trial_id] = arrival
            self.num_arrivals += 1
            return arrival
        return None

    def replay(self, log: Iterable[Arrival]) -> None:
        """Takes in what an earlier `Halving` answered, in any order, by deciding it again."""
        for arrival in sorted(log, key=lambda arrival: arrival.place):
            self.num_arrivals = arrival.place
            self.report(arrival.trial_id, arrival.rung, arrival.losses)

    def _goes_on(self, rung: int, losses: Losses) -> bool:
        if not np.isfinite(losses).all():
            return False
        hoped = np.array(losses) - (self.doubt * self._luck(rung) if self.doubt else 0.0)
        if not np.isfinite(hoped).all():
            return True
        others = [arrival.losses for arrival in self.arrivals[rung].values()]
        return survives(tuple(hoped), others, self.reduction)

    def _luck(self, rung: int) -> NDArray[np.float64]:
        """By objective, the standard deviation of a rung's values about what the ends say."""
        ends = self.arrivals[self.end]
        pairs = [
            (arrival.losses, ends[trial_id].losses)
            for trial_id, arrival in self.arrivals[rung].items()
            if trial_id in ends and np.isfinite(ends[trial_id].losses).all()
        ]
        if len(pairs) < MIN_FINISHED:
            return np.full(1, np.inf)
        early, late = np.array(pairs).transpose(1, 2, 0)
        return np.array([scatter(*values) for values in zip(early, late, strict=True)])


def scatter(early: NDArray[np.float64], late: NDArray[np.float64]) -> float:
    """Standard deviation (in units of `early`, (N,)) about the line from `early` to `late`.

    Infinite where the line does not rise, so that `early` foretells nothing.
    """
    if (early == late).all():
        return 0.0
    run, rise = early - early.mean(), late - late.mean()
    square, product = float((run**2).sum()), float((run * rise).sum())
    if product <= 0:
        return math.inf
    slope = product / square
    return math.sqrt(float(((rise - slope * run) ** 2).sum()) / (len(early) - 2)) / slope


def survives(own: Losses, others: Sequence[Losses], reduction: float) -> bool:
    """Whether a trial is among the best of a rung, the first ceil(n / reduction) of n."""
    if not np.isfinite(own).all():
        return False
    finite = [losses for losses in others if np.isfinite(losses).all()]
    points = np.array([own, *finite], dtype=np.float64)
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
