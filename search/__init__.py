"""Decides what to train next and keeps the record."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.results import StudyResults

__version__ = "0.2.0"


def open_study(folder: Path | str) -> "StudyResults":
    """The results of the study in a folder: its tables, its plot, the models of its front.

    Raises:
        ValueError: there is no study.
    """
    from search.results import StudyResults  # imports PyTorch

    return StudyResults(Path(folder))
