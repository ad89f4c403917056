"""How far a long preparation is, for the person at the terminal."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

from trainables import terminal

Item = TypeVar("Item")


def track(items: Sequence[Item], description: str) -> Iterator[Item]:
    """Yields `items` behind a progress bar on stderr, which logs do not get."""
    console = Console(file=terminal.err())
    with Progress(
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as bars:
        yield from bars.track(items, description=description)
