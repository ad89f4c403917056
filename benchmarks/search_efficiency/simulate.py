"""Replays a search on recorded trainings, with a simulated clock and asynchronous workers."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from benchmarks.search_efficiency.table import Curve, Table


class Method(Protocol):
    """A search as the simulated workers see it; jobs are numbered by whoever asks."""

    def suggest(self, job: str, taken: set[int]) -> int | None:
        """The curve to train next."""
        ...

    def report(self, job: str, curve: Curve, epoch: int) -> bool:
        """Whether a training goes on after an epoch that is not its last."""
        ...

    def complete(self, job: str, curve: Curve) -> None:
        """A training has reached its end, or has failed."""
        ...


@dataclass(frozen=True)
class Event:
    """A point that was found: device seconds spent by all workers until then, and its losses."""

    seconds: float
    point: tuple[float, float]


def simulate(method: Method, table: Table, workers: int, budget_seconds: float) -> Iterator[Event]:
    """Yields the finished trainings until the workers have spent the budget."""
    taken: set[int] = set()
    queue: list[tuple[float, int, str, int, int]] = []

    def launch(now: float, worker: int) -> None:
        job = f"{len(taken):06d}"
        row = method.suggest(job, taken)
        if row is not None:
            taken.add(row)
            heapq.heappush(queue, (now + table.curves[row].seconds[0], worker, job, row, 1))

    for worker in range(workers):
        launch(0.0, worker)
    while queue:
        now, worker, job, row, epoch = heapq.heappop(queue)
        if now * workers > budget_seconds:
            return
        curve = table.curves[row]
        if epoch == len(curve.miou):
            method.complete(job, curve)
            if not curve.failed:
                yield Event(now * workers, table.point(curve))
            launch(now, worker)
        elif method.report(job, curve, epoch):
            step = curve.seconds[epoch] - curve.seconds[epoch - 1]
            heapq.heappush(queue, (now + step, worker, job, row, epoch + 1))
        else:
            launch(now, worker)
