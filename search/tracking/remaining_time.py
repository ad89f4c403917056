"""How long a study will still take, estimated while it runs."""

import time

from trainables.core.progress import human_duration


class RemainingTime:
    """The time that the trials of a study will still take.

    Until the first of them has ended it is what was expected, then it follows from their rate. A
    time budget limits it.

    Args:
        num_trials: those that are left when the search begins.
        budget_s: seconds that they may take; None: as many as they need.
    """

    def __init__(self, num_trials: int, budget_s: float | None = None) -> None:
        self.num_trials, self.budget_s = num_trials, budget_s
        self.expected_s: float | None = None
        """Seconds that all of them were expected to take, if that is known."""
        self.trained_before = 0.0
        """How many of them an earlier driver had trained, in shares of trials."""
        self.begin = time.monotonic()

    def start(self) -> None:
        """Starts the clock."""
        self.begin = time.monotonic()

    def seconds(self, num_ended: int, running: float) -> float | None:
        """Seconds from now on, where `running` trials count by the share that is trained.

        None where nothing is known, or where more time has passed than was expected.
        """
        elapsed = time.monotonic() - self.begin
        left: float | None = None
        done = num_ended + running - self.trained_before
        if num_ended and done > 0:
            left = elapsed * (self.num_trials - num_ended - running) / done
        elif self.expected_s is not None and self.expected_s > elapsed:
            left = self.expected_s - elapsed
        if self.budget_s is None:
            return left
        within = max(0.0, self.budget_s - elapsed)
        return within if left is None else min(left, within)


def write_left(seconds: float | None, short: bool = False) -> str:
    """What is left, and until when by the clock: "about 12 min left, until 14:35"; or ""."""
    if not seconds:
        return ""
    left = "" if short else f"about {human_duration(seconds)} left, "
    return f"{left}until {clock_after(seconds)}"


def clock_after(seconds: float) -> str:
    """The local time in so many seconds, with the date where that is another."""
    now = time.time()
    begin, end = time.localtime(now), time.localtime(now + seconds)
    another = (begin.tm_year, begin.tm_yday) != (end.tm_year, end.tm_yday)
    return time.strftime("%Y-%m-%d %H:%M" if another else "%H:%M", end)
