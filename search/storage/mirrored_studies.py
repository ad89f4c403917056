"""Brings the studies of an object store to this machine, and what a driver wrote there back."""

import shutil
from pathlib import Path

from search.storage.layout import (
    CHECKPOINTS,
    COMPARISON_FILE,
    JOURNAL,
    LOG,
    MODELS,
    NOT_STUDIES,
    SCRATCH,
    SEGMENTS,
    STUDY_FILE,
)
from search.storage.segments import download_journal, flush_journal
from trainables.core.mirror import download, download_folder, is_mirrored, remote_of, upload

NOT_DOWNLOADED = (CHECKPOINTS, SCRATCH, SEGMENTS, JOURNAL, LOG)
"""What only the processes read that run a study, and what this machine may have more of."""


def download_studies(storage: Path) -> None:
    """Brings all studies and comparisons in a mirror up to date.

    Raises:
        ValueError: the journal of one is damaged.
        OSError: the object store does not answer.
    """
    if (remote := remote_of(storage)) is None:
        return
    there = set(remote.folders()) - {*NOT_STUDIES}
    for folder in [path.parent for path in storage.glob(f"*/{STUDY_FILE}")]:
        if folder.name not in there:  # deleted on another machine
            shutil.rmtree(folder)
    for name in sorted(there):
        download_study(storage / name)


def download_study(folder: Path) -> None:
    """Brings a study or a comparison in a mirror up to date, and its models.

    Raises:
        ValueError: its journal is damaged.
        OSError: the object store does not answer.
    """
    if (remote := remote_of(folder)) is None:
        return
    files = remote.files()
    if STUDY_FILE in files or COMPARISON_FILE in files:
        download_folder(folder, is_downloaded, files=files)
        download_journal(folder)
        if not (folder / LOG).is_file():
            download(folder / LOG)


def download_models(folder: Path) -> None:
    """Brings the models of a study in a mirror up to date, which trials wrote on other machines."""
    download_folder(folder / MODELS)


def is_downloaded(name: str) -> bool:
    first, last = Path(name).parts[0], Path(name).name
    return first not in NOT_DOWNLOADED and not last.startswith(".")


def upload_log(folder: Path) -> None:
    """Uploads what only a driver writes: the log, and the end of the journal.

    Raises:
        OSError: the object store does not take it.
    """
    if is_mirrored(folder) and (log := folder / LOG).is_file():
        flush_journal(folder)
        upload(log, log)
