"""Says why nothing runs, so that nobody waits without knowing what for."""

import time
from collections.abc import Callable

FIRST_S, AGAIN_S = 30.0, 180.0
"""Seconds without anything that runs until that is said, and said again."""


class WaitingNotice:
    """Says why nothing runs, after half a minute and every three minutes from then on."""

    def __init__(self, say: Callable[[str], None], why: Callable[[], str]) -> None:
        self.say, self.why = say, why
        self.restart()

    def restart(self) -> None:
        """Something runs: the time begins anew."""
        self.begin = time.monotonic()
        self.patience_s = FIRST_S

    def look(self) -> None:
        """Says what is waited for, where it is time to say it."""
        waited_s = time.monotonic() - self.begin
        if waited_s >= self.patience_s:
            self.patience_s = waited_s + AGAIN_S
            self.say(f"waiting for {waited_s:.0f} s: {self.why()}")
