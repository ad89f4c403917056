"""A stopwatch for a training, and a watchdog that ends a training that hangs."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)
OnHang = Callable[[str], None]
"""Called with the reason, a text; does not return."""


def die(reason: str) -> None:
    """Logs the reason and exits: a call that hangs cannot be ended otherwise."""
    log.error("error: %s", reason)
    os._exit(1)


class Watchdog:
    """Calls `on_hang` from its own thread if `beat` is not called for `timeout_s` seconds.

    With a timeout of None it does nothing.
    """

    def __init__(self, timeout_s: float | None, on_hang: OnHang = die) -> None:
        self.timeout_s, self.on_hang = timeout_s, on_hang
        self.last: float | None = None
        self.closed = threading.Event()
        if timeout_s is not None:
            threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """Reports progress, which restarts the timeout."""
        self.last = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspends the timeout inside the block."""
        self.last = None
        try:
            yield
        finally:
            self.beat()

    def close(self) -> None:
        self.closed.set()

    def _run(self) -> None:
        assert self.timeout_s is not None
        while not self.closed.wait(min(1.0, self.timeout_s / 4)):
            last = self.last
            if last is not None and time.monotonic() - last > self.timeout_s:
                self.on_hang(f"hung: no progress for {self.timeout_s:g} s")
                return


class Stopwatch:
    """Measures time from `start` on; `seconds` is the initial value."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.before, self.begin = seconds, time.perf_counter()
        self.is_running = False

    def start(self) -> None:
        if not self.is_running:
            self.begin, self.is_running = time.perf_counter(), True

    @property
    def seconds(self) -> float:
        """The seconds measured so far."""
        return self.before + (time.perf_counter() - self.begin if self.is_running else 0.0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspends the measurement inside the block."""
        was_running, self.before = self.is_running, self.seconds
        self.is_running = False
        try:
            yield
        finally:
            if was_running:
                self.start()
