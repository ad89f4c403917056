"""The fronts of the other studies in a storage."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from search.storage.layout import FRONT_TABLE, STUDY_FILE
from search.storage.study_file import StudyFile, read_study_file


@dataclass(frozen=True)
class OtherFront:
    """The front of another study on the same data: sizes in bytes and mIoU of its members."""

    name: str
    points: Sequence[tuple[int, float]]


def read_other_fronts(file: StudyFile) -> list[OtherFront]:
    """Those of other studies whose mIoU can be compared: on the same data, measured alike.

    A study that cannot be read is left out.
    """
    storage, found = file.config.storage, []
    for folder in sorted(path.parent for path in storage.glob(f"*/{STUDY_FILE}")):
        if folder.name == file.config.name:
            continue
        try:
            other = read_study_file(folder, "--storage")
            points = read_points(folder / FRONT_TABLE)
        except (ValueError, OSError, LookupError, pa.ArrowException):
            continue
        same = (other.data_digest, other.label_size) == (file.data_digest, file.label_size)
        if same and points:
            found.append(OtherFront(other.config.name, points))
    return found


def read_points(table: Path) -> list[tuple[int, float]]:
    columns = pq.read_table(table, columns=["size_bytes", "miou"]).to_pydict()
    return sorted(zip(columns["size_bytes"], columns["miou"], strict=True))
