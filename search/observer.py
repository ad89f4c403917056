"""Who wants to hear what happens to trials: tracking and progress."""

from typing import Protocol

from search.record import Record


class Observer(Protocol):
    """Is told of each trial when it starts, after each epoch, and when it has ended."""

    def started(self, record: Record) -> None: ...
    def reported(self, record: Record) -> None: ...
    def ended(self, record: Record) -> None: ...
