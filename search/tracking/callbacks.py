"""Callbacks on the events of trials, and one that delivers them from a thread of its own."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from search.core.record import Record
from search.tracking.mlflow_errors import describe_store_error
from trainables.core import terminal

PATIENCE_S = 5.0
"""Until what could not be delivered is tried again."""


Kind = Literal["started", "reported", "ended", "replayed"]
"""Replayed is what an earlier driver may have left out."""


class Event(NamedTuple):
    """What happened to a trial, and its record then."""

    kind: Kind
    record: Record


class Sink(Protocol):
    """Takes what happened to one trial, perhaps once more after having raised."""

    def deliver(self, events: Sequence[Event]) -> None: ...


class AsyncCallback:
    """An Observer that never blocks: a thread of its own delivers, in order for each trial.

    What cannot be delivered is tried again, and by the next driver as the last resort.
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
        """Hands on a trial that an earlier driver may not have."""
        self._put("replayed", record)

    def close(self, patience_s: float) -> bool:
        """Returns whether all is delivered, after a last attempt or when the patience is over."""
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
                except Exception as error:  # whatever a store does, training goes on
                    waiting[trial_id] = events  # behind the others, which may fare better
                    self._warn_once(error)
                    break

    def _next(self, timeout: float | None) -> list[Event | None]:
        """All that has come, once something has or the time is over."""
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
    """Whether a store was told all, without an error, before the patience was over."""
    done = threading.Event()

    def run() -> None:
        try:
            tell()
            done.set()
        except Exception as error:  # whatever a store does, a study is whole without it
            terminal.print_error(f"MLflow could not be told the end: {describe_store_error(error)}")

    thread = threading.Thread(target=run, name="last words", daemon=True)
    thread.start()
    thread.join(patience_s)
    return done.is_set()


class Callback(Protocol):
    """Is told of each trial when it starts, after each epoch, and when it has ended."""

    def started(self, record: Record) -> None: ...
    def reported(self, record: Record) -> None: ...
    def ended(self, record: Record) -> None: ...
