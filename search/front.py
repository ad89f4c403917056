"""The Pareto front: trained, measured students that no other beats in every objective."""

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from search.objectives import MIOU_AND_SIZE, Objective
from search.record import Record

Points = NDArray[np.float64]


def pareto_front(
    records: Sequence[Record], objectives: Sequence[Objective] = MIOU_AND_SIZE
) -> list[Record]:
    """The non-dominated COMPLETE records, smallest first; of equal ones the earliest."""
    finished = [record for record in records if record.state == "COMPLETE"]
    if not finished:
        return []
    keep = moocore.is_nondominated(as_losses(finished, objectives), keep_weakly=False)
    front = [record for record, kept in zip(finished, keep, strict=True) if kept]
    return sorted(front, key=lambda record: record.metrics.size_bytes or 0 if record.metrics else 0)


def hypervolume(
    records: Sequence[Record], worst: Sequence[float], objectives: Sequence[Objective]
) -> float:
    """Share of the volume from the ideal point to `worst`, a value for each objective, dominated.

    Ideal is 1 where more is better and 0 where less is.
    """
    finished = [record for record in records if record.state == "COMPLETE"]
    if not finished:
        return 0.0
    ideal = np.array([1.0 if objective.sign < 0 else 0.0 for objective in objectives])
    spans = np.abs(np.asarray(worst) - ideal)
    signs = np.array([objective.sign for objective in objectives])
    losses = (as_losses(finished, objectives) - ideal * signs) / spans
    return float(moocore.hypervolume(losses, ref=np.ones(len(objectives))))


def worst_of(records: Sequence[Record], objectives: Sequence[Objective]) -> list[float]:
    """A point that no COMPLETE record is beyond: mIoU 0, and the most that any costs."""
    values = [record.values(objectives) for record in records if record.state == "COMPLETE"]
    return [
        0.0 if objective.sign < 0 else max((value[i] for value in values if value), default=0.0)
        for i, objective in enumerate(objectives)
    ]


def as_losses(records: Sequence[Record], objectives: Sequence[Objective]) -> Points:
    """Objective values (N, objectives), signed so that less is better."""
    signs = np.array([objective.sign for objective in objectives], dtype=np.float64)
    return np.array([record.values(objectives) for record in records], dtype=np.float64) * signs
