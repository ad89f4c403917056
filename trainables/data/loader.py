"""Batches of a table on the training device.

Shape suffixes: N rows, B batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import torch
from torch import Tensor

from trainables.data.arrow_table import ArrowTable, Tensors

RESIDENT_SHARE = 0.1
"""Share of a process's GPU memory; a table that is smaller is kept on the GPU."""
NUM_TABLES = 3
"""Tables of a training: training images, validation images, the teacher's outputs."""


class Loader:
    """Loads rows of a table as tensors on a device.

    On a CPU, rows are copied from the mapped file. On a GPU, a table within `RESIDENT_SHARE` of
    the memory is uploaded at first use; a larger one is streamed from pinned memory, a batch ahead.
    """

    def __init__(self, table: ArrowTable, device: torch.device, memory_share: float = 1.0) -> None:
        """`memory_share` is the share of the GPU's memory that this process may use."""
        self.table, self.device, self.memory_share = table, device, memory_share

    @cached_property
    def resident(self) -> Tensors | None:
        """The whole table, where it is kept on the GPU."""
        if self.device.type != "cuda":
            return None
        total = torch.cuda.get_device_properties(self.device).total_memory
        if self.table.num_bytes > RESIDENT_SHARE * self.memory_share * total:
            return None
        return upload(self.table, self.device)

    def __len__(self) -> int:
        return len(self.table)

    def batches(self, rows: Iterable[Sequence[int]]) -> Iterator[Tensors]:
        """One batch for each sequence of row numbers."""
        if self.resident is not None:
            for batch in rows:
                chosen = send(torch.tensor(batch), self.device)
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
        copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

        def fetch(batch: Sequence[int]) -> Tensors:
            tensors = self.table.take(batch)
            with torch.cuda.stream(copies):
                return {name: send(tensor, self.device) for name, tensor in tensors.items()}

        def ready(batch: Tensors) -> Tensors:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_stream(copies)
            for tensor in batch.values():
                tensor.record_stream(computing)
            return batch

        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for batch in rows:
                coming = reader.submit(fetch, batch)
                if ahead is not None:
                    yield ready(ahead.result())
                ahead = coming
            if ahead is not None:
                yield ready(ahead.result())


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, by an asynchronous copy."""
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def shuffled(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Row numbers of an epoch's batches, in an order given by (seed, epoch).

    The last, smaller batch is left out, since batch normalisation suffers from it, unless it is
    the only one.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 9973 + epoch))
    last = max(count - batch_size, 0)
    return [order[i : i + batch_size].tolist() for i in range(0, last + 1, batch_size)]


def upload(table: ArrowTable, device: torch.device) -> Tensors:
    whole: dict[str, Tensor] = {}
    for name, chunks in table.chunks.items():
        first = torch.from_numpy(chunks[0][:1].copy())
        whole[name] = torch.empty((len(table), *first.shape[1:]), dtype=first.dtype, device=device)
        start = 0
        for chunk in chunks:
            whole[name][start : start + len(chunk)] = torch.from_numpy(chunk.copy())
            start += len(chunk)
    return whole
