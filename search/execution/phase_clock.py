"""Measures the phases of the search of this process."""

import threading
import time
from collections.abc import Callable

import psutil

from search.core.phase import STARTING, Phase, PhaseTimes

SAMPLE_EVERY_S = 1.0
"""Seconds between two looks at how busy the devices are."""


class PhaseClock:
    """The time of each phase since this process began, and how busy the devices are meanwhile.

    Args:
        utilization: gives the share of all devices that is busy, or None where that is not known.
            A thread calls it every second until `close`.
    """

    def __init__(self, utilization: Callable[[], float | None]) -> None:
        self.utilization = utilization
        self.begin = psutil.Process().create_time()
        self.known: dict[str, Phase] = {}
        self.first_step_s: float | None = None
        self.name, self.since = STARTING, self.begin
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._look, name="phases", daemon=True)
        self.thread.start()

    def enter(self, name: str) -> None:
        """Begins a phase and ends the one before."""
        now = time.time()
        self._add(self.name, Phase(seconds=max(0.0, now - self.since)))
        self.name, self.since = name, now

    def on_step(self, at: float) -> None:
        """Must be called with the times of first training steps, in seconds since 1970.

        The earliest counts; clocks of other machines may differ.
        """
        seconds = max(0.0, at - self.begin)
        self.first_step_s = min(seconds, self.first_step_s or seconds)

    def close(self) -> PhaseTimes:
        """Ends the last phase and gives all of them."""
        self.closed.set()
        self.enter("")
        return PhaseTimes(dict(self.known), self.first_step_s)

    def _add(self, name: str, part: Phase) -> None:
        self.known[name] = self.known.get(name, Phase()).plus(part)

    def _look(self) -> None:
        while not self.closed.wait(SAMPLE_EVERY_S):
            share = self.utilization()
            if share is not None and not self.closed.is_set():
                sampled = Phase(sampled_s=SAMPLE_EVERY_S, busy_s=SAMPLE_EVERY_S * share)
                self._add(self.name, sampled)
