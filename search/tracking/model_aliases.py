"""The aliases of a data set's registered model: what one can take for a size."""

from collections.abc import Sequence
from typing import NamedTuple

from mlflow.entities.model_registry import ModelVersion

from trainables.data.configs import LabelSize

MIOU_TAG, BYTES_TAG, LABELS_TAG = "miou", "size_bytes", "labels"
"""Of a version: its scores, and the size of the labels that its mIoU is measured on."""
SMALLEST, BEST = "smallest", "best"
LIMITS = {"under-100KB": 100_000, "under-300KB": 300_000, "under-1MB": 1_000_000}
"""Aliases of the best version within a number of bytes."""


class Candidate(NamedTuple):
    """A version of which an alias may be the name."""

    number: str
    miou: float
    size_bytes: int
    label_size: LabelSize = "own"


def as_candidate(version: ModelVersion) -> Candidate | None:
    """A version with scores; None of one without, as where a user has registered it."""
    tags = version.tags
    try:
        miou, size_bytes = float(tags[MIOU_TAG]), int(tags[BYTES_TAG])
    except (KeyError, ValueError):
        return None
    label_size: LabelSize = "own" if tags.get(LABELS_TAG) == "own" else "packed"
    return Candidate(str(version.version), miou, size_bytes, label_size)


def choose_aliases(candidates: Sequence[Candidate]) -> dict[str, str]:
    """By alias the number of its version; of equal ones the oldest, so that an alias stays.

    Where mIoU is measured on labels of two sizes, those of their own size are compared alone.
    """
    own = [candidate for candidate in candidates if candidate.label_size == "own"]
    compared = own or candidates
    if not compared:
        return {}
    chosen = {
        SMALLEST: min(compared, key=lambda each: (each.size_bytes, -each.miou)),
        BEST: max(compared, key=lambda each: (each.miou, -each.size_bytes)),
    }
    for alias, limit in LIMITS.items():
        if within := [each for each in compared if each.size_bytes <= limit]:
            chosen[alias] = max(within, key=lambda each: (each.miou, -each.size_bytes))
    return {alias: candidate.number for alias, candidate in chosen.items()}
