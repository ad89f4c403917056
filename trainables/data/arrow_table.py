"""Rows of fixed-shape arrays in one Arrow IPC file, which every process of a machine maps.

Shape suffixes: N rows.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.core.command_line import first_line

MAX_ROWS, MAX_BYTES = 64, 1 << 26
"""Limits of a chunk, an Arrow record batch; all chunks but the last have equally many rows."""

Arrays = Mapping[str, NDArray[Any]]
Tensors = dict[str, Tensor]


def write_table(path: Path, chunks: Iterable[Arrays]) -> None:
    """Writes chunks of arrays (n, ...) by name; all but the last have equally many rows."""
    writer = None
    with pa.OSFile(str(path), "wb") as file:
        for arrays in chunks:
            columns = [np.ascontiguousarray(array) for array in arrays.values()]
            if writer is None:
                schema = make_schema(list(arrays), columns)
                writer = pa.ipc.new_file(file, schema)
            blocks = [
                pa.Array.from_buffers(field.type, len(column), [None, pa.py_buffer(column)])
                for field, column in zip(schema, columns, strict=True)
            ]
            writer.write_batch(pa.record_batch(blocks, schema=schema))
        assert writer is not None, "a table has rows"
        writer.close()


def make_schema(names: Sequence[str], columns: Sequence[NDArray[Any]]) -> pa.Schema:
    layout = {
        name: [column.dtype.name, *column.shape[1:]]
        for name, column in zip(names, columns, strict=True)
    }
    fields = [
        pa.field(name, pa.binary(column[0].nbytes), nullable=False)
        for name, column in zip(names, columns, strict=True)
    ]
    return pa.schema(fields, {"layout": json.dumps(layout)})


def chunks_of(num_rows: int, row_bytes: int) -> list[range]:
    """The rows of each chunk of a table."""
    rows = max(1, min(MAX_ROWS, MAX_BYTES // row_bytes))
    return [range(start, min(start + rows, num_rows)) for start in range(0, num_rows, rows)]


class ArrowTable:
    """The rows that `write_table` wrote, read in place from the memory-mapped file.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._open(path)
        except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            reason = first_line(error)
            raise ValueError(f"{path} must be an intact table, but is not: {reason}") from error

    def _open(self, path: Path) -> None:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate(full=True)
        layout = json.loads(reader.schema.metadata[b"layout"])
        self.chunks: dict[str, list[NDArray[Any]]] = {
            name: [view(batch.column(name), dtype, shape) for batch in batches]
            for name, (dtype, *shape) in layout.items()
        }
        self.num_rows: int = sum(batch.num_rows for batch in batches)
        self.chunk_rows: int = batches[0].num_rows
        if any(batch.num_rows != self.chunk_rows for batch in batches[:-1]):
            raise ValueError("its chunks differ in length")
        self.num_bytes = sum(chunk.nbytes for chunks in self.chunks.values() for chunk in chunks)

    def __len__(self) -> int:
        return self.num_rows

    def whole_chunks(self) -> Iterator[Arrays]:
        """All rows in the chunks in which they were written."""
        for chunk in zip(*self.chunks.values(), strict=True):
            yield dict(zip(self.chunks, chunk, strict=True))

    def take(self, rows: Sequence[int]) -> Tensors:
        """Copies of some rows, by column name: (N, ...)."""
        places = [divmod(row, self.chunk_rows) for row in rows]
        return {
            name: torch.from_numpy(np.stack([chunks[chunk][row] for chunk, row in places]))
            for name, chunks in self.chunks.items()
        }


def view(column: "pa.FixedSizeBinaryArray", dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    rows = len(column)
    if column.offset or min(shape, default=1) < 0:
        raise ValueError("a column is not laid out as it was written")
    count = rows * int(np.prod(shape))
    return np.frombuffer(column.buffers()[1], dtype, count).reshape(rows, *shape)
