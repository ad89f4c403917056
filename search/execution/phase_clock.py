"""Measures the phases of the search of this process."""

import threading
import time
from collections.abc import Callable

from search.core.phase import STARTING, Phase, PhaseTimes
from search.execution.restart import program_begin

SAMPLE_EVERY_S = 1.0
"""Seconds between two looks at how busy the devices are."""


class PhaseClock:
    """The time of each phase since this process began, and how busy the devices are meanwhile.

    Args:
        utilization: gives the share of all devices that is busy, or None where that is not known.
            A thread calls it every second until `close`.
        keep: gets all times whenever a phase has ended.
    """

    def __init__(
        self, utilization: Callable[[], float | None], keep: Callable[[PhaseTimes], None]
    ) -> None:
        self.utilization, self.keep = utilization, keep
        self.begin = program_begin()
        self.known: dict[str, Phase] = {}
        self.first_step_s: float | None = None
        self.name, self.since = STARTING, self.begin
        self.closed, self.lock = threading.Event(), threading.Lock()
        self.thread = threading.Thread(target=self._look, name="phases", daemon=True)
        self.thread.start()

    def enter(self, name: str) -> None:
        """Begins a phase and ends the one before."""
        now = time.time()
        self._add(self.name, Phase(seconds=max(0.0, now - self.since)))
        self.name, self.since = name, now
        self.keep(self.times)

    def on_step(self, at: float) -> None:
        """Must be called with the times of first training steps, in seconds since 1970.

        The earliest counts, but those before this program, of processes that were killed.
        """
        seconds = at - self.begin
        if seconds > 0 and (self.first_step_s is None or seconds < self.first_step_s):
            self.first_step_s = seconds

    @property
    def times(self) -> PhaseTimes:
        """What is known of the phases that have ended, and of the one that has not."""
        with self.lock:
            return PhaseTimes(dict(self.known), self.first_step_s)

    def close(self) -> None:
        """Ends the last phase; must be called before Ray is ended, which the thread may ask."""
        self.closed.set()
        self.thread.join()
        self.enter("")

    def _add(self, name: str, part: Phase) -> None:
        with self.lock:
            self.known[name] = self.known.get(name, Phase()).plus(part)

    def _look(self) -> None:
        while not self.closed.wait(SAMPLE_EVERY_S):
            if (share := self.utilization()) is not None:
                sampled = Phase(sampled_s=SAMPLE_EVERY_S, busy_s=SAMPLE_EVERY_S * share)
                self._add(self.name, sampled)
