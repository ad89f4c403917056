"""Selects the points of a study's front to export, by name or by limits of size and mIoU."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from search.storage.layout import FRONT_TABLE
from trainables.core.units import human_size, parse_size


@dataclass(frozen=True)
class Choice:
    """A point of a front to export, and the reason for its choice."""

    trial_id: str
    miou: float
    size_bytes: int
    why: str


def read_front_points(folder: Path) -> list[Choice]:
    """The points of a study's front with the sizes of their packed files, smallest first.

    Raises:
        ValueError: no trial of the study has finished.
    """
    path = folder / FRONT_TABLE
    if not path.is_file():
        raise ValueError(f"a study must have ended or been interrupted, but there is no {path}")
    try:
        rows = pq.read_table(path).to_pylist()
        points = [Choice(row["trial_id"], row["miou"], row["size_bytes"], "asked") for row in rows]
    except (pa.ArrowInvalid, KeyError) as error:
        raise ValueError(f"{path} must be the table of a front, but it lacks {error}") from error
    if not points:
        raise ValueError(f"a study must have finished trials to export, but {folder} has none")
    return sorted(points, key=lambda point: point.size_bytes)


def select_points(points: list[Choice], arguments: argparse.Namespace) -> list[Choice]:
    """The points that the command line asks for.

    Raises:
        ValueError: there is none; the message says how close the nearest comes.
    """
    if arguments.all:
        return points
    if arguments.trial is not None:
        return [named(points, arguments.trial)]
    max_size = None if arguments.max_size is None else parse_size(arguments.max_size)
    return [best(points, max_size, arguments.min_miou)]


def named(points: Sequence[Choice], trial_id: str) -> Choice:
    for point in points:
        if point.trial_id == trial_id:
            return point
    known = ", ".join(point.trial_id for point in points)
    raise ValueError(f"--trial must be a point of the front ({known}), but got {trial_id}")


def best(points: Sequence[Choice], max_size: int | None, min_miou: float | None) -> Choice:
    """The greatest mIoU within a size; without a size, the smallest file with enough mIoU."""
    if min_miou is not None and not 0 <= min_miou <= 1:
        raise ValueError(f"--min-miou must be a share from 0 to 1, but got {min_miou}")
    small = [point for point in points if max_size is None or point.size_bytes <= max_size]
    if not small:
        nearest = min(points, key=lambda point: point.size_bytes)
        raise ValueError(
            "--max-size must admit a point of the front, but the smallest is "
            f"{describe_point(nearest)} (trial {nearest.trial_id}) and the limit is "
            f"{max_size:,} bytes"
        )
    good = [point for point in small if min_miou is None or point.miou >= min_miou]
    if not good:
        nearest = max(small, key=lambda point: point.miou)
        within = "" if max_size is None else f" within {max_size:,} bytes"
        raise ValueError(
            f"--min-miou must admit a point of the front, but the best{within} is "
            f"{describe_point(nearest)} (trial {nearest.trial_id}) and the limit is {min_miou:.4f}"
        )
    if max_size is None and min_miou is not None:
        smallest = min(good, key=lambda point: point.size_bytes)
        return replace(smallest, why=f"the smallest of mIoU >= {min_miou:g}")
    limit = "; no limit was given" if max_size is None else f" within {max_size:,} bytes"
    return replace(max(good, key=lambda point: point.miou), why=f"the greatest mIoU{limit}")


def describe_point(point: Choice) -> str:
    return f"mIoU {point.miou:.4f}, {human_size(point.size_bytes)}"
