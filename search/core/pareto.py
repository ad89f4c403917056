"""The Pareto front: the trained and measured students that no other dominates."""

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from search.core.objectives import MIOU_AND_SIZE, Objective
from search.core.record import Record
from trainables.core.metrics import Metrics

Points = NDArray[np.float64]
SIZES_KB = (50, 100, 300, 1000)
"""File sizes, in thousands of bytes, at which searches are compared by mIoU."""
REFERENCE_MARGIN = 1.1
"""The reference point of a hypervolume, as a multiple of the range of each cost."""


def pareto_front(
    records: Sequence[Record], objectives: Sequence[Objective] = MIOU_AND_SIZE
) -> list[Record]:
    """The non-dominated COMPLETE records, smallest first; of equal ones the earliest."""
    finished = [record for record in records if record.state == "COMPLETE"]
    if not finished:
        return []
    keep = moocore.is_nondominated(to_minimized_values(finished, objectives), keep_weakly=False)
    front = [record for record, kept in zip(finished, keep, strict=True) if kept]
    return sorted(front, key=lambda record: record.metrics.size_bytes or 0 if record.metrics else 0)


def hypervolume(
    records: Sequence[Record],
    span: Points,
    objectives: Sequence[Objective],
    least_miou: float = 0.0,
) -> float:
    """The hypervolume of the front, as a share of the box between the best and the worst values.

    mIoU counts from `least_miou` to 1, each cost by its logarithm between the two rows of `span`,
    (2, costs), extended by a tenth, so that the largest student contributes, too.
    """
    finished = [record for record in records if record.state == "COMPLETE"]
    if not finished:
        return 0.0
    losses = to_minimized_values(finished, objectives)
    is_miou = np.array([objective.metric == "miou" for objective in objectives])
    places = normalize_log_costs(losses[:, ~is_miou], span)
    reference = np.array([-least_miou] + [REFERENCE_MARGIN] * places.shape[1])
    volume = moocore.hypervolume(np.column_stack([losses[:, is_miou], places]), ref=reference)
    return float(volume / (1 - least_miou) / REFERENCE_MARGIN ** places.shape[1])


def shared_span(objectives: Sequence[Objective]) -> Points:
    """The range (2,C) of costs that is the same for the hypervolumes of all studies."""
    return np.array([o.span for o in objectives if o.metric != "miou"], dtype=np.float64).T


def describe_shared_span(objectives: Sequence[Objective], least_miou: float) -> str:
    """What such a hypervolume counts from and to, in words."""
    costs = [o for o in objectives if o.metric != "miou"]
    spans = [f"{o.metric} {' to '.join(map(o.write, o.span))}" for o in costs]
    return ", ".join([f"miou from {least_miou:.3f}", *spans])


def best_within(records: Sequence[Record]) -> dict[int, tuple[str, Metrics]]:
    """By `SIZES_KB`, the finished student of at most this size with the best mIoU, if there is any.

    It is given by the id of its trial and its metrics; of equal ones it is the earliest.
    """
    sized = [
        (record.metrics.size_bytes, record.trial_id, record.metrics)
        for record in records
        if record.state == "COMPLETE" and record.metrics and record.metrics.size_bytes
    ]
    found = {kb: [(name, m) for size, name, m in sized if size <= 1000 * kb] for kb in SIZES_KB}
    return {
        kb: max(students, key=lambda student: student[1].miou)
        for kb, students in found.items()
        if students
    }


def mious_within(records: Sequence[Record]) -> dict[int, float]:
    """By `SIZES_KB`, the best mIoU of a finished student of at most this size, if there is any."""
    return {kb: metrics.miou for kb, (_, metrics) in best_within(records).items()}


def normalize_log_costs(costs: Points, span: Points) -> Points:
    """Where costs (N,C) lie between the rows of `span` (2,C), from 0 to 1, by their logarithms."""
    low, high = np.log(span)
    places: Points = (np.log(costs) - low) / np.where(high > low, high - low, 1.0)
    return places


def cost_range_of(costs: Points) -> Points:
    """The least and the greatest (2,C) of costs (N,C)."""
    return np.stack([costs.min(axis=0), costs.max(axis=0)])


def to_minimized_values(records: Sequence[Record], objectives: Sequence[Objective]) -> Points:
    """Objective values (N, objectives), signed so that less is better."""
    signs = np.array([objective.sign for objective in objectives], dtype=np.float64)
    return np.array([record.values(objectives) for record in records], dtype=np.float64) * signs
