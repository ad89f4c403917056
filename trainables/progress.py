"""How far a long preparation is, for the person at the terminal."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

from trainables import terminal

Item = TypeVar("Item")


def track(items: Sequence[Item], description: str) -> Iterator[Item]:
    """Yields `items` behind a progress bar on stderr, which logs do not get."""
    console = Console(file=terminal.err())
    yield from rich_track(
        items, description, console=console, transient=True, disable=not console.is_terminal
    )
