"""Recorded trainings as a problem: every point of the space is the nearest recorded one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import optuna
import pyarrow.parquet as pq
from numpy.typing import NDArray

from search.budget import Costs
from search.drawing import Distributions, Params, configure, place_of
from search.front import BEYOND
from spaces import load_space
from trainables.config import TrialConfig

Floats = NDArray[np.float64]
COSTLY = ("student.width", "recipe.quantizer.weight_bits", "recipe.quantizer.activation_bits")
WEIGHT = 4.0
"""Of these in the distance: what a student is must match before how it is trained."""


@dataclass(frozen=True)
class Curve:
    """One recorded training: mIoU and seconds since its start after each epoch, and its costs.

    One that failed ends early.
    """

    config: TrialConfig
    miou: tuple[float, ...]
    seconds: tuple[float, ...]
    costs: Costs
    failed: bool


class Table:
    """Recorded curves of a space, each to be used once in a search."""

    def __init__(self, path: Path, space: str = "qkd") -> None:
        rows = pq.read_table(path).to_pylist()
        self.named = load_space(space)
        drawn = [configure(self.named.space, row) for row in rows]
        self.distributions: Distributions = drawn[0][1].distributions
        self.curves = [
            Curve(
                config.replace(num_epochs=max(len(each["miou"]) for each in rows), seed=number),
                tuple(row["miou"]),
                tuple(row["seconds"]),
                Costs(size_bytes=row["size_bytes"], macs=row["macs"]),
                bool(row["failure"]),
            )
            for number, ((config, _), row) in enumerate(zip(drawn, rows, strict=True))
        ]
        self.num_epochs = self.curves[0].config.num_epochs
        self.weights = np.array([WEIGHT if name in COSTLY else 1.0 for name in self.distributions])
        self.places = np.array([self.place(each.params) for _, each in drawn])
        self.finished = [curve for curve in self.curves if not curve.failed]
        sizes = np.log([curve.costs.size_bytes for curve in self.curves])
        self.least, self.most = float(sizes.min()), float(sizes.max())
        self.best = self.hypervolume([self.point(curve) for curve in self.finished])

    def place(self, params: Params) -> Floats:
        return np.array([place_of(params[name], d) for name, d in self.distributions.items()])

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
        self.named.space(trial)
        return trial.params

    def point(self, curve: Curve) -> tuple[float, float]:
        """The losses of a finished training: -mIoU, and its place in the range of log sizes."""
        size = (np.log(curve.costs.size_bytes) - self.least) / (self.most - self.least)
        return -curve.miou[-1], float(size)

    def hypervolume(self, points: list[tuple[float, float]], largest: float = 1.0) -> float:
        """Of points no larger than a place in the range of log sizes, above mIoU 0."""
        inside = [point for point in points if point[1] <= largest]
        if not inside:
            return 0.0
        beyond = BEYOND if largest == 1 else largest
        return float(moocore.hypervolume(np.array(inside), ref=[0.0, beyond]))
