"""Validation labels at their own size, beside a pack whose images and masks are resized.

Shape suffixes: H height, W width.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainables.core.command_line import first_line

CODEC = "zstd"
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


class OwnLabels(NamedTuple):
    """A mask of `height` x `width` pixels, compressed, and the size of its image on the canvas.

    The image, resized, is in the first `content_height` rows and `content_width` columns of the
    canvas; the rest is padding.
    """

    compressed: bytes
    height: int
    width: int
    content_height: int
    content_width: int

    def decode(self) -> NDArray[np.uint8]:
        """The mask (H,W) of class indices, 255 = ignore."""
        content = pa.decompress(
            self.compressed, self.height * self.width, codec=CODEC, asbytes=True
        )
        return np.frombuffer(bytearray(content), np.uint8).reshape(self.height, self.width)


def compress_labels(labels_HW: NDArray[np.uint8], content: tuple[int, int]) -> OwnLabels:
    """A mask to be kept; `content` is the width and the height of its image on the canvas."""
    compressed = pa.compress(labels_HW.tobytes(), codec=CODEC, asbytes=True)
    (height, width), (content_width, content_height) = labels_HW.shape, content
    return OwnLabels(compressed, height, width, content_height, content_width)


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
        except (OSError, ValueError) as error:
            reason = first_line(error)
            raise ValueError(f"{path} must hold intact masks, but does not: {reason}") from error

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[OwnLabels]:
        for row in zip(*self.table.columns, strict=True):
            yield OwnLabels._make(value.as_py() for value in row)
