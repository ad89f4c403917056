"""How far long pieces of work are, which whoever waits for them is told from time to time.

Work reports each of its units to a logger of its own, and costs nothing where nobody listens. Who
listens decides where a line goes and how often: to a terminal, or to a file for another process.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from trainables.core.files import replace_file

logger = logging.getLogger(__name__)
Given = ParamSpec("Given")
First = TypeVar("First")
Result = TypeVar("Result")

PROGRESS_EVERY_S = 30.0
"""Seconds between two lines: often enough to see that work goes on, too seldom to fill a log."""
PROGRESS_FILE = ".progress"
"""Name of the file that holds the last line of another process."""
AT_ONCE = "at_once"
"""Attribute of a log record that is said however soon after another."""
CHECK_EVERY_S = 1.0
"""Seconds between looks for lines of other processes: on a network disk each takes milliseconds."""


class ProgressReporter:
    """Reports how much of one piece of work is done, and how long the rest will take."""

    def __init__(self, task: str, unit: str, total: int) -> None:
        self.task, self.unit, self.total = task, unit, total
        self.first: tuple[float, float] | None = None
        """How much was done, and when, at the first report: the rate is counted from there."""

    def update(self, done: float) -> None:
        """`done` units of `total` are done; of the one under way it may count a part."""
        if not logger.isEnabledFor(logging.INFO):
            return
        now = time.monotonic()
        first, begin = self.first = self.first or (done, now)
        line = f"{self.task}: {self.unit} {min(self.total, int(done) + 1)} of {self.total}"
        if done > first:
            seconds = (now - begin) / (done - first) * (self.total - done)
            line += f", about {human_duration(seconds)} left"
        logger.info("%s", line)


def human_duration(seconds: float) -> str:
    """A duration as people say it: 40 s, 8 min, 2 h 5 min."""
    if seconds < 59.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def announce(line: str) -> None:
    """Names the work that begins now and may take long: whoever waits is told at once."""
    logger.info("%s", line, extra={AT_ONCE: True})


class _Listener(logging.Handler):
    def __init__(self, say: Callable[[str], None], every_s: float) -> None:
        super().__init__()
        self.say, self.every_s, self.last = say, every_s, time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if hasattr(record, AT_ONCE) or now - self.last >= self.every_s:
            self.last = now
            self.say(record.getMessage())


@contextmanager
def progress_to(say: Callable[[str], None], every_s: float = PROGRESS_EVERY_S) -> Iterator[None]:
    """Says inside the block how far work is, at most every `every_s` seconds, and what begins."""
    listener, level = _Listener(say, every_s), logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(listener)


@contextmanager
def progress_to_file(path: Path, every_s: float = PROGRESS_EVERY_S) -> Iterator[None]:
    """Keeps the last line in a file, which is gone at the end of the block."""

    def say(line: str) -> None:
        with suppress(OSError):  # a full disk does not end the work
            replace_file(path, line)

    try:
        with progress_to(say, every_s):
            yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def with_progress_file(
    path: Path,
    every_s: float,
    work: Callable[Concatenate[First, Given], Result],
    first: First,
    *given: Given.args,
    **named: Given.kwargs,
) -> Result:
    """`work(first, *given, **named)`, which keeps its progress in a file meanwhile."""
    with progress_to_file(path, every_s):
        return work(first, *given, **named)


class ProgressFiles:
    """Reads the lines that other processes keep in the files of a folder, each line once."""

    def __init__(self, folder: Path, pattern: str = PROGRESS_FILE) -> None:
        self.folder, self.pattern = folder, pattern
        self.seen: dict[Path, int] = {}
        self.checked = -math.inf

    def new_lines(self) -> Iterator[tuple[Path, str]]:
        """Of each file that was written since the last call, its path and its line."""
        now = time.monotonic()
        if now - self.checked < CHECK_EVERY_S:
            return
        self.checked = now
        for path in sorted(self.folder.glob(self.pattern)):
            with suppress(FileNotFoundError):  # the work has just ended
                written = path.stat().st_mtime_ns
                if self.seen.get(path) != written:
                    self.seen[path] = written
                    yield path, path.read_text()
