"""Analytic problems: multi-fidelity Branin-Currin and Park.

Irshad, Karsch and Doepp 2021 (arXiv 2112.13901), as modified there for several fidelities. The
first objective stands for mIoU: it is seen at the fidelity of the epoch, its range from -1 to 1
moved to that of mIoU; hypervolume counts above the middle. The second stands for the size: it is
exact, as sizes are. Points are drawn at random once; a search sees the nearest.
"""

from collections.abc import Callable

import numpy as np
import optuna

from benchmarks.search_efficiency.table import Curve, Floats, Point, Table
from search.algorithms.candidates import SamplingTrial
from search.core.constraints import Costs
from trainables.config import TrialConfig
from trainables.recipes.configs import Supervised

NUM_POINTS, NUM_EPOCHS = 2000, 9
DECADES = 4
"""Of sizes, for one unit of the second objective."""


def branin_currin(x: Floats, s: Floats) -> tuple[Floats, Floats]:
    """Both objectives, to be maximized; `x` (N,2) in the unit square, fidelity `s` up to 1."""
    u, v, less = 15 * x[:, 0] - 5, 15 * x[:, 1], 1 - s
    bend = 5.1 / (4 * np.pi**2) - 0.01 * less
    slope = 5 / np.pi - 0.1 * less
    wave = 10 * (1 - 1 / (8 * np.pi) - 0.05 * less)
    branin = (v - bend * u**2 + slope * u - 6) ** 2 + wave * np.cos(u) + 10
    a, b = x[:, 0], np.maximum(x[:, 1], 1e-9)
    ratio = (2300 * a**3 + 1900 * a**2 + 2092 * a + 60) / (100 * a**3 + 500 * a**2 + 4 * a + 20)
    currin = (1 - 0.1 * less * np.exp(-1 / (2 * b))) * ratio
    return (21 - branin) / 22, (14 - currin) / 15


def park(x: Floats, s: Floats) -> tuple[Floats, Floats]:
    """The same for `x` (N,4)."""
    a, b = 1 - 2 * (x[:, 0] - 0.6) ** 2, x[:, 1]
    c, d = 1 - 3 * (x[:, 2] - 0.5) ** 2, 1 - (x[:, 3] - 0.8) ** 2
    gain, loss = 0.9 + 0.1 * s, 0.1 * (1 - s)
    first = (a + 0.001 * (1 - s)) / 2 * np.sqrt(1 + (b + c**2) * d / (a**2 + 1e-4))
    second = (a + 3 * d) * np.exp(1 + np.sin(c))
    other = 5 - 2 / 3 * np.exp(a + b) + d * np.sin(c) * gain - c + loss
    return gain * (first + second - loss) / 22 - 0.8, gain * other / 4 - 0.7


PROBLEMS: dict[str, tuple[int, Callable[[Floats, Floats], tuple[Floats, Floats]]]] = {
    "branin-currin": (2, branin_currin),
    "park": (4, park),
}


NOISY = " with seed noise"
"""End of the name of a problem whose every training is seen with an error of its own."""
SEED_NOISE = 0.01
"""Standard deviation of that error: seeds of a student differ by 0.005 to 0.02."""


def make_table(name: str) -> Table:
    """A problem as if it had been recorded."""
    dimensions, problem = PROBLEMS[name.removesuffix(NOISY)]

    def space(trial: optuna.Trial) -> list[float]:
        return [trial.suggest_float(f"x{axis}", 0, 1) for axis in range(dimensions)]

    random = np.random.default_rng(0)
    x = random.random((NUM_POINTS, dimensions))
    fidelities = (np.arange(NUM_EPOCHS) + 1) / NUM_EPOCHS
    values = np.array([problem(x, np.full(len(x), fidelity)) for fidelity in fidelities])
    errors = SEED_NOISE * random.standard_normal(len(x)) * name.endswith(NOISY)
    points, curves = [], []
    for number, place in enumerate(x):
        drawn = SamplingTrial(
            {f"x{axis}": float(value) for axis, value in enumerate(place)}, random
        )
        space(drawn)  # type: ignore[arg-type]
        points.append(Point(drawn.params, drawn.distributions))
        first, second = (1 + values[:, 0, number].clip(-1, 1)) / 2, values[-1, 1, number]
        curves.append(
            Curve(
                TrialConfig(recipe=Supervised(), num_epochs=NUM_EPOCHS, seed=number),
                tuple((first + errors[number]).tolist()),
                tuple(float(epoch + 1) for epoch in range(NUM_EPOCHS)),
                Costs(size_bytes=round(10 ** (3 + DECADES * (1 - second))), macs=1),
                failed=False,
                true_miou=float(first[-1]),
            )
        )
    return Table(space, points, curves, floor=0.5)
