"""Hands what happens to trials on to a slow observer, so that no training waits for it."""

import queue
import sys
import threading
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from search.record import Record

PATIENCE_S = 5.0
"""Until what could not be delivered is tried again."""


Kind = Literal["started", "reported", "ended"]


class Event(NamedTuple):
    """What happened to a trial, and its record then."""

    kind: Kind
    record: Record
    time_ms: int


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


class Receiver(Protocol):
    """Takes what happened to one trial, perhaps once more after having raised."""

    def deliver(self, events: Sequence[Event]) -> None: ...


class Delivery:
    """An Observer that never blocks: a thread of its own delivers, in order for each trial."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self.complained = False
        self.thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self.thread.start()

    def started(self, record: Record) -> None:
        self._put("started", record)

    def reported(self, record: Record) -> None:
        self._put("reported", record)

    def ended(self, record: Record) -> None:
        self._put("ended", record)

    def close(self) -> None:
        """Returns when all is delivered, or could not be at a last attempt."""
        self.events.put(None)
        self.thread.join()

    def _put(self, kind: Kind, record: Record) -> None:
        self.events.put(Event(kind, record, now_ms()))

    def _run(self) -> None:
        waiting: dict[str, list[Event]] = {}
        is_open = True
        while is_open:
            for event in self._next(PATIENCE_S if waiting else None):
                if event is None:
                    is_open = False
                else:
                    waiting.setdefault(event.record.trial_id, []).append(event)
            for trial_id in list(waiting):
                try:
                    self.receiver.deliver(waiting[trial_id])
                except Exception as error:  # whatever a store does, training goes on
                    self._complain(error)
                else:
                    del waiting[trial_id]

    def _next(self, timeout: float | None) -> list[Event | None]:
        """All that has come, once something has or the time is over."""
        try:
            events = [self.events.get(timeout=timeout)]
        except queue.Empty:
            return []
        while not self.events.empty():
            events.append(self.events.get())
        return events

    def _complain(self, error: Exception) -> None:
        if not self.complained:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            print(f"the record in MLflow is behind and tried again: {reason}", file=sys.stderr)
            self.complained = True
