"""Callbacks on the events of trials, and one that delivers them from a thread of its own."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from search.core.record import Record
from search.tracking.mlflow_errors import describe_store_error
from trainables.core import terminal

PATIENCE_S = 5.0
"""Seconds until a failed delivery is tried again."""


Kind = Literal["started", "reported", "ended", "replayed"]
"""`replayed` is a record that an earlier driver may not have delivered."""


class Event(NamedTuple):
    """An event of a trial, and the record of the trial at that time."""

    kind: Kind
    record: Record


class Sink(Protocol):
    """Receives the events of one trial, again if an earlier delivery of them raised."""

    def deliver(self, events: Sequence[Event]) -> None: ...


class AsyncCallback:
    """A `Callback` that never blocks: its own thread delivers the events of each trial in order.

    Events that cannot be delivered are tried again, and at last by the next driver.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self.has_warned = False
        self.waiting: dict[str, list[Event]] = {}
        self.thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self.thread.start()

    def started(self, record: Record) -> None:
        self._put("started", record)

    def reported(self, record: Record) -> None:
        self._put("reported", record)

    def ended(self, record: Record) -> None:
        self._put("ended", record)

    def replayed(self, record: Record) -> None:
        """Delivers the record of a trial that an earlier driver may not have delivered."""
        self._put("replayed", record)

    def close(self, patience_s: float) -> bool:
        """Returns whether all events are delivered, after a last attempt or after the timeout."""
        self.events.put(None)
        self.thread.join(patience_s)
        return not self.thread.is_alive() and not self.waiting

    def _put(self, kind: Kind, record: Record) -> None:
        self.events.put(Event(kind, record))

    def _run(self) -> None:
        waiting, is_open = self.waiting, True
        while is_open:
            for event in self._next(PATIENCE_S if waiting else None):
                if event is None:
                    is_open = False
                else:
                    waiting.setdefault(event.record.trial_id, []).append(event)
            for trial_id in list(waiting):
                events = waiting.pop(trial_id)
                try:
                    self.sink.deliver(events)
                except Exception as error:  # no error of a store may end the training
                    waiting[trial_id] = events  # behind the others, whose delivery may succeed
                    self._warn_once(error)
                    break

    def _next(self, timeout: float | None) -> list[Event | None]:
        """All events that have arrived, once there is one or after the timeout."""
        try:
            events = [self.events.get(timeout=timeout)]
        except queue.Empty:
            return []
        while not self.events.empty():
            events.append(self.events.get())
        return events

    def _warn_once(self, error: Exception) -> None:
        if not self.has_warned:
            reason = describe_store_error(error)
            terminal.print_error(f"the record in MLflow is behind and tried again: {reason}")
            self.has_warned = True


def run_with_timeout(tell: Callable[[], None], patience_s: float) -> bool:
    """Whether `tell` returned without an error within `patience_s` seconds."""
    done = threading.Event()

    def run() -> None:
        try:
            tell()
            done.set()
        except Exception as error:  # a study is complete without its record in a store
            terminal.print_error(f"MLflow could not be told the end: {describe_store_error(error)}")

    thread = threading.Thread(target=run, name="final report", daemon=True)
    thread.start()
    thread.join(patience_s)
    return done.is_set()


class Callback(Protocol):
    """Is called when a trial starts, after each epoch, and when the trial has ended."""

    def started(self, record: Record) -> None: ...
    def reported(self, record: Record) -> None: ...
    def ended(self, record: Record) -> None: ...
