"""Recorded trainings as a problem: every point of the space is the nearest recorded one."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import optuna
import pyarrow.parquet as pq
from numpy.typing import NDArray

from search.algorithms.candidates import Distributions, Params, sample_config, to_unit
from search.core.constraints import Costs
from search.core.pareto import REFERENCE_MARGIN
from spaces import PointsToEvaluate, load_space
from trainables.config import TrialConfig

Floats = NDArray[np.float64]
COSTLY = ("student.width", "recipe.quantizer.weight_bits", "recipe.quantizer.activation_bits")
FLOOR = "commonest_miou"
"""Name, in a file of curves, of the mIoU of predicting the commonest class."""
WEIGHT = 4.0
"""Weight of costly parameters in the distance: the architecture must match before the training."""


@dataclass(frozen=True)
class Curve:
    """One recorded training: mIoU and seconds since its start after each epoch, and its costs.

    One that failed ends early. `true_miou` is that without the error of its seed, if it is known
    or estimated.
    """

    config: TrialConfig
    miou: tuple[float, ...]
    seconds: tuple[float, ...]
    costs: Costs
    failed: bool
    true_miou: float | None = None


@dataclass(frozen=True)
class Point:
    """Parameters of a recorded training, and what they are drawn from."""

    params: Params
    distributions: Distributions


class Table:
    """Recorded curves of a space, each to be used once in a search.

    Args:
        points: of the curves, in their order.
        costly: parameters that must match before others when the nearest is looked for.
        points_to_evaluate: the space's own, which searches may try first.
        floor: mIoU above which hypervolume counts.
    """

    def __init__(
        self,
        space: Callable[[optuna.Trial], object],
        points: Sequence[Point],
        curves: Sequence[Curve],
        costly: Collection[str] = (),
        points_to_evaluate: PointsToEvaluate = (),
        floor: float = 0.0,
    ) -> None:
        self.floor = floor
        self.space, self.curves, self.points_to_evaluate = space, list(curves), points_to_evaluate
        self.points = points
        self.distributions = {n: d for point in points for n, d in point.distributions.items()}
        self.num_epochs = max(len(curve.miou) for curve in curves)
        self.weights = np.array([WEIGHT if name in costly else 1.0 for name in self.distributions])
        self.places = np.array([self.place(point.params) for point in points])
        self.finished = [curve for curve in curves if not curve.failed]
        sizes = np.log([curve.costs.size_bytes for curve in curves])
        self.least, self.most = float(sizes.min()), float(sizes.max())
        self.best = self.hypervolume([self.point(curve) for curve in self.finished])

    def place(self, params: Params) -> Floats:
        """Parameters in the unit cube; those that a point does not have are in the middle."""
        return np.array(
            [to_unit(params[n], d) if n in params else 0.5 for n, d in self.distributions.items()]
        )

    def nearest(self, params: Params, taken: set[int]) -> int:
        """The recorded point next to `params` that is not taken."""
        return self.nearest_place(self.place(params), taken)

    def nearest_place(self, place: Floats, taken: set[int]) -> int:
        """The recorded point next to a place in the unit cube that is not taken."""
        apart = ((self.places - place) ** 2 * self.weights).sum(axis=1)
        apart[list(taken)] = np.inf
        return int(apart.argmin())

    def params_of(self, trial: optuna.Trial) -> dict[str, Any]:
        """What the space samples in a trial."""
        self.space(trial)
        return trial.params

    def point(self, curve: Curve) -> tuple[float, float]:
        """The losses of a finished training: -mIoU (the true one, if known), and its log size.

        The logarithm of the size is scaled from the table's least to its greatest.
        """
        size = (np.log(curve.costs.size_bytes) - self.least) / (self.most - self.least)
        miou = curve.miou[-1] if curve.true_miou is None else curve.true_miou
        return -miou, float(size)

    def miou_within(self, points: list[tuple[float, float]], size_bytes: int) -> float:
        """The best mIoU of points of at most this size; 0 where there is none."""
        largest = (np.log(size_bytes) - self.least) / (self.most - self.least)
        return max((-loss for loss, place in points if place <= largest), default=0.0)

    def hypervolume(self, points: list[tuple[float, float]]) -> float:
        """Of points, above the floor."""
        if not points:
            return 0.0
        return float(moocore.hypervolume(np.array(points), ref=[-self.floor, REFERENCE_MARGIN]))


def read_table(path: Path, space: str = "qkd", is_averaged: bool = False) -> Table:
    """What `record` wrote.

    `is_averaged` scores each training by the mean of those of the same network, which differ by
    little more than seeds do, so that the lucky ones among them are worth no more.
    """
    recorded = pq.read_table(path)
    rows = recorded.to_pylist()
    named = load_space(space)
    drawn = [sample_config(named.space, row) for row in rows]
    num_epochs = max(len(row["miou"]) for row in rows)
    curves = [
        Curve(
            config.replace(num_epochs=num_epochs, seed=number),
            tuple(row["miou"]),
            tuple(row["seconds"]),
            Costs(size_bytes=row["size_bytes"], macs=row["macs"]),
            bool(row["failure"]),
        )
        for number, ((config, _), row) in enumerate(zip(drawn, rows, strict=True))
        if row["miou"]
    ]
    points = [
        Point(each.params, each.distributions)
        for (_, each), row in zip(drawn, rows, strict=True)
        if row["miou"]
    ]
    if is_averaged:
        mious = defaultdict(list)
        for curve in curves:
            mious[curve.config.student.digest()].append(curve.miou[-1])
        curves = [
            replace(curve, true_miou=float(np.mean(mious[curve.config.student.digest()])))
            for curve in curves
        ]
    floor = float((recorded.schema.metadata or {}).get(FLOOR.encode(), 0))
    return Table(named.space, points, curves, COSTLY, named.points_to_evaluate, floor)
