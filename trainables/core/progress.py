"""Progress reports of long tasks, to a terminal or to a file for another process.

A task reports each of its units to a logger of this module, at no cost without a handler. The
handler decides how often a line is written, and where.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Concatenate, ParamSpec, TypeVar

from trainables.core.files import replace_file
from trainables.core.mirror import delete, download_folder, is_mirrored, upload

logger = logging.getLogger(__name__)
Given = ParamSpec("Given")
First = TypeVar("First")
Result = TypeVar("Result")

PROGRESS_EVERY_S = 30.0
"""Seconds between two lines: frequent enough to show progress, without filling the log."""
PROGRESS_FILE = ".progress"
"""Name of the file that holds the last line of another process."""
AT_ONCE = "at_once"
"""Attribute of a log record that is said however soon after another."""
STEPPED = "a training step has been made"
"""The line of a progress file that only says so."""
ALIVE_EVERY_S = 5.0
"""Seconds after which a process touches its progress file again."""
SILENT_S = 60.0
"""Seconds without that after which a process is taken to be gone: network file systems may show the
time of a file half a minute late."""
CHECK_EVERY_S = 1.0
"""Seconds between two polls of progress files: on a network disk each takes milliseconds."""
REMOTE_ALIVE_EVERY_S, REMOTE_CHECK_EVERY_S = 20.0, 5.0
"""The same two intervals for files in an object store, where each request costs money."""


class ProgressReporter:
    """Reports the completed part of one task, and the estimated remaining time."""

    def __init__(self, task: str, unit: str, total: int) -> None:
        self.task, self.unit, self.total = task, unit, total
        self.first: tuple[float, float] | None = None
        """Completed units, and the last time when no more were: the rate is computed from there."""

    def update(self, done: float) -> None:
        """Reports `done` of `total` units; a fraction counts a part of the current unit."""
        if not logger.isEnabledFor(logging.INFO):
            return
        now = time.monotonic()
        if self.first is None or done <= self.first[0]:
            self.first = (done, now)
        first, begin = self.first
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


def announce_step() -> None:
    """Tells whoever waits that a training has made its first step in this process."""
    logger.debug("%s", STEPPED, extra={AT_ONCE: True})


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
def progress_to(
    say: Callable[[str], None], every_s: float = PROGRESS_EVERY_S, level: int = logging.INFO
) -> Iterator[None]:
    """Says inside the block how far work is, at most every `every_s` seconds, and what begins."""
    listener, before = _Listener(say, every_s), logger.level
    listener.setLevel(level)
    logger.addHandler(listener)
    logger.setLevel(min(level, before) if before else level)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(listener)


@contextmanager
def progress_to_file(path: Path, every_s: float = PROGRESS_EVERY_S) -> Iterator[None]:
    """Keeps the last progress line in a file, which is deleted at the end of the block.

    The file is empty until there is one: it says that work has begun. A thread touches it as long
    as the process lives.
    """
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(REMOTE_ALIVE_EVERY_S if is_mirrored(path) else ALIVE_EVERY_S):
            with suppress(OSError):
                os.utime(path)
                upload(path, path)

    def say(line: str) -> None:
        with suppress(OSError):  # a full disk does not end the work
            replace_file(path, line)

    say("")
    alive = threading.Thread(target=touch, name="progress file", daemon=True)
    alive.start()
    try:
        with progress_to(say, every_s, logging.DEBUG):
            yield
    finally:
        ended.set()
        alive.join()
        with suppress(OSError):
            delete(path)


def with_progress_file(
    path: Path,
    every_s: float,
    work: Callable[Concatenate[First, Given], Result],
    first: First,
    *given: Given.args,
    **named: Given.kwargs,
) -> Result:
    """Calls `work(first, *given, **named)` and keeps its progress in a file meanwhile."""
    with progress_to_file(path, every_s):
        return work(first, *given, **named)


class ProgressFiles:
    """Reads the progress lines of other processes from files below a folder, each line once."""

    def __init__(
        self,
        folder: Path,
        pattern: str = PROGRESS_FILE,
        on_step: Callable[[float], None] = lambda at: None,
    ) -> None:
        """`on_step` gets the time, in seconds since 1970, of a process's first training step."""
        self.folder, self.pattern, self.on_step = folder, pattern, on_step
        self.seen: dict[Path, str] = {}
        self.touched: dict[Path, tuple[int, float]] = {}
        """When each file was last modified, and when that was first seen, by two clocks."""
        self.checked = -math.inf
        self.bringing: threading.Thread | None = None

    def _bring(self) -> None:
        """Downloads the files of other machines; what is new is read at the next call."""
        with suppress(OSError):
            download_folder(
                self.folder,
                lambda name: PurePosixPath(name).match(self.pattern),
                recursive="/" in self.pattern,
            )

    def new_lines(self) -> Iterator[tuple[Path, str]]:
        """The path and the line of each file whose line is another than at the last call."""
        now = time.monotonic()
        is_remote = is_mirrored(self.folder)
        if now - self.checked < (REMOTE_CHECK_EVERY_S if is_remote else CHECK_EVERY_S):
            return
        self.checked = now
        if is_remote and not (self.bringing and self.bringing.is_alive()):
            # The search does not wait for an object store
            self.bringing = threading.Thread(target=self._bring, daemon=True)
            self.bringing.start()
        before, self.touched = self.touched, {}
        for path in sorted(self.folder.glob(self.pattern)):
            with suppress(FileNotFoundError):  # the task has just ended
                modified = path.stat().st_mtime_ns
                known = before.get(path)
                if known and known[0] == modified:
                    self.touched[path] = known
                    continue
                self.touched[path] = (modified, now)
                if (line := path.read_text()) and self.seen.get(path) != line:
                    self.seen[path] = line
                    if line == STEPPED:
                        self.on_step(modified / 1e9)
                    else:
                        yield path, line

    @property
    def is_alive(self) -> bool:
        """Whether a process has lately touched its file, as far as `new_lines` has seen.

        Clocks of other machines may differ: only changes count.
        """
        now = time.monotonic()
        return any(now - seen < SILENT_S for _, seen in self.touched.values())
