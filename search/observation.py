"""What a sampler knows of the trials so far: costs exactly, mIoU at the fidelity that each had."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from search.drawing import Distributions, Params

Floats = NDArray[np.float64]
MIN_PAIRS = 3
"""Finished trials from which a line is fitted; fewer give a constant difference."""
SLOPE_PRIOR = 3 * 0.02**2
"""Weight of the slope 1 beside the data's, as a sum of squared mIoU differences."""


@dataclass(frozen=True)
class Observation:
    """One trial: its parameters, what it costs, its mIoU at rungs, and at its end if it got there.

    `costs` holds the objectives but mIoU, each known before training; `partial` is by epoch. What
    neither runs nor has come to its end was stopped. What `failed` has no model, and as its final
    mIoU that of the commonest class.
    """

    params: Params
    distributions: Distributions
    costs: tuple[float, ...]
    partial: Mapping[int, float] = field(default_factory=dict)
    final: float | None = None
    running: bool = False
    failed: bool = False


def final_mious(observations: Sequence[Observation]) -> Floats:
    """The mIoU at the end of training (N,), of stopped and running trials extrapolated.

    From a trial's last rung by a straight line through the finished trials' values at that rung and
    at their end; NaN where a trial has reached no rung.
    """
    lines = {rung: fit_line(observations, rung) for rung in reached(observations)}

    def estimate(observation: Observation) -> float:
        if observation.final is not None:
            return observation.final
        if not observation.partial:
            return float("nan")
        last = max(observation.partial)
        slope, offset = lines[last]
        return float(np.clip(slope * observation.partial[last] + offset, 0, 1))

    return np.array([estimate(observation) for observation in observations], dtype=np.float64)


def reached(observations: Iterable[Observation]) -> set[int]:
    return {rung for observation in observations for rung in observation.partial}


def fit_line(observations: Iterable[Observation], rung: int) -> tuple[float, float]:
    """Slope and offset from mIoU at a rung to mIoU at the end, the slope drawn towards 1."""
    pairs = np.array(
        [
            (observation.partial[rung], observation.final)
            for observation in observations
            if rung in observation.partial and observation.final is not None
        ]
    ).reshape(-1, 2)
    if not len(pairs):
        return 1.0, 0.0
    early, late = pairs.mean(axis=0)
    if len(pairs) < MIN_PAIRS:
        return 1.0, float(late - early)
    apart = pairs - (early, late)
    slope = ((apart[:, 0] * apart[:, 1]).sum() + SLOPE_PRIOR) / (
        (apart[:, 0] ** 2).sum() + SLOPE_PRIOR
    )
    return float(slope), float(late - slope * early)
