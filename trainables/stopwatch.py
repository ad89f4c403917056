"""Seconds that something takes, without those in which it waits."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Counts from `start` on; `seconds` were counted before."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.before, self.begin = seconds, time.perf_counter()
        self.is_running = False

    def start(self) -> None:
        if not self.is_running:
            self.begin, self.is_running = time.perf_counter(), True

    @property
    def seconds(self) -> float:
        """Counted so far."""
        return self.before + (time.perf_counter() - self.begin if self.is_running else 0.0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count inside the block."""
        was_running, self.before = self.is_running, self.seconds
        self.is_running = False
        try:
            yield
        finally:
            if was_running:
                self.start()
