"""Validation labels at their own size, beside a pack whose images and masks are resized."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from trainables.core.command_line import first_line
from trainables.data.base import OwnLabels

SCHEMA = pa.schema(
    [
        pa.field("compressed", pa.large_binary(), nullable=False),
        pa.field("height", pa.uint32(), nullable=False),
        pa.field("width", pa.uint32(), nullable=False),
        pa.field("content_height", pa.uint32(), nullable=False),
        pa.field("content_width", pa.uint32(), nullable=False),
    ]
)
"""The fields of `OwnLabels`."""


def write_own_labels(path: Path, rows: Sequence[OwnLabels]) -> None:
    """Writes masks to an Arrow IPC file."""
    table = pa.Table.from_pylist([row._asdict() for row in rows], SCHEMA)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        writer.write_table(table)


class OwnLabelTable:
    """The masks that `write_own_labels` wrote, in the memory-mapped file; iterable repeatedly.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            with pa.memory_map(str(path)) as file:
                self.table = pa.ipc.open_file(file).read_all()
            self.table.validate(full=True)
            if self.table.schema != SCHEMA:
                raise ValueError("it has other columns")
        except (OSError, LookupError, TypeError, ValueError, NotImplementedError) as error:
            reason = first_line(error)
            raise ValueError(f"{path} must hold intact masks, but does not: {reason}") from error

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[OwnLabels]:
        for row in zip(*self.table.columns, strict=True):
            yield OwnLabels._make(value.as_py() for value in row)
