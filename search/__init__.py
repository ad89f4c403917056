"""Decides what to train next and keeps the record."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.results import StudyResults

__version__ = "0.2.0"


def open_study(folder: Path | str) -> "StudyResults":
    """The results of the study in a folder: its tables, its plot, the models of its front.

    The folder may be one of an object store, such as s3://bucket/prefix/study.

    Raises:
        ValueError: there is no study.
    """
    from search.results import StudyResults  # imports PyTorch
    from search.storage.mirrored_studies import download_study
    from trainables.core.mirror import default_cache, mirror_folder

    is_uri = isinstance(folder, str) and "://" in folder
    here = mirror_folder(str(folder), default_cache()) if is_uri else Path(folder)
    download_study(here)
    return StudyResults(here)
