"""Redirects the output of libraries from the terminal to a log file while a study runs.

Libraries write to Python's streams and, in C and C++, to file descriptors 1 and 2. Both are
redirected to the log; `out` and `err` write to the terminal.
"""

import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal, TextIO, TypeVar

from trainables.core.progress import ProgressReporter

DESCRIPTORS = (1, 2)
"""File descriptors of stdout and stderr."""
LOG_WIDTH = 120
"""Characters of a line where stdout is no terminal."""
Verbosity = Literal["quiet", "normal", "verbose"]
verbosity: Verbosity = "normal"
"""How much this process says of its work; results, warnings and errors are always printed."""
WARNING = "warning:"
"""Begins each line that is a warning."""


class Log:
    """The log of libraries' output: a temporary file until `keep` gives it a path."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.kept = [os.dup(number) for number in DESCRIPTORS]
        self.out, self.err = (
            os.fdopen(os.dup(d), "w", buffering=1, errors="backslashreplace") for d in self.kept
        )
        self._lead(self.file.fileno())

    def keep(self, path: Path) -> None:
        """Appends the output so far to another file, and continues there."""
        flush()
        file = path.open("a+b")
        self.file.seek(0)
        shutil.copyfileobj(self.file, file)
        file.flush()
        self._lead(file.fileno())
        self.file.close()
        self.file, self.path = file, path

    def close(self) -> None:
        """Ends the redirection."""
        flush()
        for number, descriptor in zip(DESCRIPTORS, self.kept, strict=True):
            os.dup2(descriptor, number)
        self.file.close()

    def _lead(self, descriptor: int) -> None:
        flush()
        for number in DESCRIPTORS:
            os.dup2(descriptor, number)


log: Log | None = None
"""The log of this process, while output is redirected."""


@contextmanager
def own_terminal() -> Iterator[None]:
    """Redirects the output of libraries to a log inside the block.

    It does nothing where a stream is closed or was replaced, as in tests that capture it.
    """
    global log
    streams = (sys.stdout, sys.stderr)
    if None in streams or streams != (sys.__stdout__, sys.__stderr__):
        yield
        return
    with suppress(OSError):  # there is no temporary folder, which is reported elsewhere
        log = Log()
    try:
        yield
    finally:
        release()


def release() -> None:
    """Ends the redirection; must be called before the process executes another program."""
    global log
    if log is not None:
        log.close()
    log = None


def keep_log(path: Path) -> None:
    """Continues the log of libraries in a file, if their output is redirected."""
    if log is not None:
        log.keep(path)


def write_log(line: str) -> None:
    """Adds a line to the log of libraries, if it is redirected and the disk is not full."""
    if log is not None:
        with suppress(OSError):
            os.write(log.file.fileno(), f"{line}\n".encode(errors="backslashreplace"))


def log_traceback() -> None:
    """Adds the error that is handled to the log."""
    write_log(traceback.format_exc())


def log_file() -> Path | None:
    """The file of the log of libraries, if it has a path."""
    return log.path if log is not None else None


def out() -> TextIO:
    """The terminal's stdout."""
    return log.out if log is not None else sys.stdout


def err() -> TextIO:
    """The terminal's stderr."""
    return log.err if log is not None else sys.stderr


def out_width() -> int | None:
    """Characters of a line of stdout; None: as many as the terminal has."""
    return None if out().isatty() else LOG_WIDTH


def set_verbosity(chosen: Verbosity) -> None:
    """Chooses how much this process says of its work."""
    global verbosity
    verbosity = chosen


def verbosity_flags() -> list[str]:
    """The flags of a command that says as much as this one."""
    return [] if verbosity == "normal" else [f"--{verbosity}"]


def print_line(line: str) -> None:
    """Prints a line on the terminal's stdout at once, and adds it to the log."""
    print(line, file=out(), flush=True)
    write_log(line)


def print_step(line: str) -> None:
    """The same for a line on the progress of the work, which a quiet command does not print."""
    if is_wanted(line):
        print_line(line)
    else:
        write_log(line)


def is_wanted(line: str) -> bool:
    """Whether a line on the progress of the work is printed: where quiet is asked, warnings are."""
    return verbosity != "quiet" or line.startswith(WARNING)


def print_error(line: str) -> None:
    """Prints an error on the terminal's stderr."""
    print(line, file=err(), flush=True)


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


Item = TypeVar("Item")


def track(items: Sequence[Item], description: str, unit: str = "part") -> Iterator[Item]:
    """Yields `items` with a progress bar on stderr, or with progress lines without a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=err())
    if verbosity == "quiet":
        yield from items
        return
    if not console.is_terminal:
        reporter = ProgressReporter(description, unit, len(items))
        for done, item in enumerate(items):
            reporter.update(done)
            yield item
        return
    with Progress(
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bars:
        yield from bars.track(items, description=description)
