"""The Pareto front: trained, measured students that no other beats in every objective."""

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from search.objectives import OBJECTIVES
from search.record import Record

Points = NDArray[np.float64]


def pareto_front(records: Sequence[Record]) -> list[Record]:
    """The non-dominated COMPLETE records, smallest first; of equal ones the earliest."""
    finished = [record for record in records if record.objectives is not None]
    if not finished:
        return []
    keep = moocore.is_nondominated(as_losses(finished), keep_weakly=False)
    front = [record for record, kept in zip(finished, keep, strict=True) if kept]
    return sorted(front, key=lambda record: record.metrics.size_bytes or 0 if record.metrics else 0)


def hypervolume(records: Sequence[Record], largest_size_bytes: float) -> float:
    """Share of the area 0 <= mIoU <= 1, 0 <= size <= `largest_size_bytes` that records dominate."""
    finished = [record for record in records if record.objectives is not None]
    if not finished:
        return 0.0
    losses = as_losses(finished) / np.array([1.0, largest_size_bytes])
    return float(moocore.hypervolume(losses, ref=np.array([0.0, 1.0])))


def as_losses(records: Sequence[Record]) -> Points:
    """Objective values (N, objectives), signed so that less is better."""
    signs = np.array([objective.sign for objective in OBJECTIVES], dtype=np.float64)
    return np.array([record.objectives for record in records], dtype=np.float64) * signs
