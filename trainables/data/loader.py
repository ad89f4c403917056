"""Batches of a table on the training device.

Shape suffixes: N rows, B batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from trainables.data.table import CHUNK, Table, Tensors

RESIDENT_SHARE = 0.2
"""Of a GPU's free memory: a table that takes less is kept there whole."""


class Loader:
    """Gives rows of a table as tensors on a device.

    A CPU copies them out of the mapped file. On a GPU a table that fits into `RESIDENT_SHARE` of
    the free memory is uploaded once; a larger one is streamed from pinned memory, a batch ahead.
    """

    def __init__(self, table: Table, device: torch.device) -> None:
        self.table, self.device = table, device
        self.resident: Tensors | None = None
        if device.type == "cuda" and table.num_bytes <= RESIDENT_SHARE * free_bytes(device):
            self.resident = upload(table, device)

    def __len__(self) -> int:
        return len(self.table)

    def batches(self, rows: Iterable[Sequence[int]]) -> Iterator[Tensors]:
        """One batch for each sequence of row numbers."""
        if self.resident is not None:
            for batch in rows:
                chosen = torch.tensor(batch, device=self.device)
                yield {name: column[chosen] for name, column in self.resident.items()}
        elif self.device.type == "cuda":
            yield from self._stream(rows)
        else:
            yield from map(self.table.take, rows)

    def in_order(self, batch_size: int) -> Iterator[Tensors]:
        """All rows in order."""
        starts = range(0, len(self), batch_size)
        return self.batches(range(s, min(s + batch_size, len(self))) for s in starts)

    def _stream(self, rows: Iterable[Sequence[int]]) -> Iterator[Tensors]:
        def read(batch: Sequence[int]) -> Tensors:
            return {name: part.pin_memory() for name, part in self.table.take(batch).items()}

        def to_device(batch: Tensors) -> Tensors:
            return {name: part.to(self.device, non_blocking=True) for name, part in batch.items()}

        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for batch in rows:
                coming = reader.submit(read, batch)
                if ahead is not None:
                    yield to_device(ahead.result())
                ahead = coming
            if ahead is not None:
                yield to_device(ahead.result())


def shuffled(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of an epoch's batches, in an order given by (seed, epoch).

    The last, smaller batch is left out, since batch normalisation suffers from it, unless it is
    the only one.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 9973 + epoch))
    last = max(count - batch_size, 0)
    return [order[i : i + batch_size].tolist() for i in range(0, last + 1, batch_size)]


def free_bytes(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return free


def upload(table: Table, device: torch.device) -> Tensors:
    whole: dict[str, Tensor] = {}
    for name, chunks in table.chunks.items():
        first = torch.from_numpy(chunks[0][:1].copy())
        whole[name] = torch.empty((len(table), *first.shape[1:]), dtype=first.dtype, device=device)
        for position, chunk in enumerate(chunks):
            start = position * CHUNK
            whole[name][start : start + len(chunk)] = torch.from_numpy(chunk.copy())
    return whole
