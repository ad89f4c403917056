"""Argument parsing, output and exit statuses that all commands share."""

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from trainables.core.mirror import default_cache, mirror_folder
from trainables.core.terminal import print_error


class Parser(argparse.ArgumentParser):
    """A parser that reports bad arguments by one line on stderr and exit status 2."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")

    def print_help(self, file: Any = None) -> None:
        if file is None:
            write_output(self.format_help())
        else:
            super().print_help(file)


def write_output(text: str) -> None:
    """Writes to stdout; it is no error if the reader has closed the pipe, as `head` does."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout again at exit, which must not raise then
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def as_path(text: str) -> Path:
    """The path in an argument; `~` is the home folder, also after `=`.

    Raises:
        argparse.ArgumentTypeError: it is empty, or a URI.
    """
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"must be a path, but got {text!r}")
    if SCHEME.match(text):
        raise argparse.ArgumentTypeError(
            f"must be a path on this machine, such as that of a mounted folder, but got {text!r}"
        )
    return Path(os.path.expanduser(text))


def as_storage(text: str) -> Path:
    """The path in an argument, which may be the URI of an object store: then that of its mirror.

    Raises:
        argparse.ArgumentTypeError: it is empty, or another URI.
    """
    if not SCHEME.match(text):
        return as_path(text)
    try:
        return mirror_folder(text, default_cache())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


OWN_RULE = "Value error, "
"""Pydantic's prefix of messages that validators of this project raise."""


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's errors in one line: path, rule and value.

    Rules of this project that say "but" name the value themselves.
    """
    problem = error.errors()[0]
    path = ".".join(str(part) for part in problem["loc"])
    rule = problem["msg"].removeprefix(OWN_RULE)
    value = "" if ", but " in rule else f", but got {problem['input']!r}"
    return f"{path}: {rule}{value}"


def one_line(error: Exception) -> str:
    """The message of an error, in one line."""
    if isinstance(error, ValidationError):
        return first_problem(error)
    return " ".join(str(error).split("\n")) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of the message of an error."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def report(command: Callable[[], None], failure: type[Exception]) -> int:
    """Runs a command and gives its exit status; writes one line on stderr if it failed.

    0 done, 1 `failure`, 2 bad input, 130 interrupted.
    """
    try:
        command()
    except failure as error:
        print_error(f"error: {error}")
        return 1
    except (ValueError, OSError) as error:
        print_error(f"error: {one_line(error)}")
        return 2
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130
    return 0
