"""The terminal as ours alone: what libraries write goes to a log file while a study runs.

Libraries write by Python's streams and, in C and C++, by file descriptors 1 and 2. Both lead to the
log; `out` and `err` lead to the terminal.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TextIO, TypeVar

from trainables.core.progress import ProgressReporter

DESCRIPTORS = (1, 2)
"""Of stdout and stderr."""


class Log:
    """Where the words of libraries go: a file without a name until `keep` gives it one."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.kept = [os.dup(number) for number in DESCRIPTORS]
        self.out, self.err = (
            os.fdopen(os.dup(d), "w", buffering=1, errors="backslashreplace") for d in self.kept
        )
        self._lead(self.file.fileno())

    def keep(self, path: Path) -> None:
        """Goes on at the end of another file, with what was said so far."""
        flush()
        file = path.open("a+b")
        self.file.seek(0)
        shutil.copyfileobj(self.file, file)
        file.flush()
        self._lead(file.fileno())
        self.file.close()
        self.file, self.path = file, path

    def close(self) -> None:
        """Gives the terminal back to everybody."""
        flush()
        for number, descriptor in zip(DESCRIPTORS, self.kept, strict=True):
            os.dup2(descriptor, number)
        self.file.close()

    def _lead(self, descriptor: int) -> None:
        flush()
        for number in DESCRIPTORS:
            os.dup2(descriptor, number)


log: Log | None = None
"""Of this process, while there is one."""


@contextmanager
def own_terminal() -> Iterator[None]:
    """Keeps libraries off the terminal inside the block.

    Where a stream is closed, or no longer the process's own, as in tests that capture it, nothing
    changes.
    """
    global log
    streams = (sys.stdout, sys.stderr)
    if None in streams or streams != (sys.__stdout__, sys.__stderr__):
        yield
        return
    with suppress(OSError):  # no temporary folder, of which others have more to say
        log = Log()
    try:
        yield
    finally:
        release()


def release() -> None:
    """Ends what `own_terminal` began; to be called before the process becomes another program."""
    global log
    if log is not None:
        log.close()
    log = None


def keep_log(path: Path) -> None:
    """Keeps the words of libraries in a file, if they are kept off the terminal."""
    if log is not None:
        log.keep(path)


def write_log(line: str) -> None:
    """Adds a line to what libraries write, if that is kept off the terminal."""
    if log is not None:
        os.write(log.file.fileno(), f"{line}\n".encode(errors="backslashreplace"))


def log_file() -> Path | None:
    """The file that holds the words of libraries, if they are kept in one."""
    return log.path if log is not None else None


def out() -> TextIO:
    """What leads to the person: stdout."""
    return log.out if log is not None else sys.stdout


def err() -> TextIO:
    """What leads to the person: stderr."""
    return log.err if log is not None else sys.stderr


def print_line(line: str) -> None:
    """Says a line on stdout, at once."""
    print(line, file=out(), flush=True)


def print_error(line: str) -> None:
    """Says on stderr what is wrong."""
    print(line, file=err(), flush=True)


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


Item = TypeVar("Item")


def track(items: Sequence[Item], description: str, unit: str = "part") -> Iterator[Item]:
    """Yields `items` behind a progress bar on stderr; where that is no terminal, reports them."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=err())
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
