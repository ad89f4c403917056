"""Brings the studies of an object store to this machine, and what a driver wrote there back."""

import shutil
from collections.abc import Callable
from pathlib import Path

from search.storage.layout import (
    CHECKPOINTS,
    COMPARISON_FILE,
    COMPARISON_TABLE,
    FRONT_TABLE,
    JOURNAL,
    LOG,
    MODELS,
    NOT_STUDIES,
    SCRATCH,
    SEGMENTS,
    STUDY_FILE,
    TRIALS_TABLE,
)
from search.storage.segments import download_journal, flush_journal
from trainables.core.mirror import download, download_folder, is_mirrored, remote_of, upload

KNOWN_TO_OTHERS = (STUDY_FILE, COMPARISON_FILE, TRIALS_TABLE, FRONT_TABLE, COMPARISON_TABLE)
"""What one study reads of another."""
NOT_DOWNLOADED = (CHECKPOINTS, SCRATCH, SEGMENTS, JOURNAL, LOG)
"""What only the processes read that run a study, and what this machine may have more of."""


def download_studies(storage: Path, in_full: Callable[[str], bool] = lambda name: False) -> None:
    """Brings what studies know of one another up to date: configurations and tables.

    Those whose names are `in_full` are brought with their journals and models.

    Raises:
        ValueError: the journal of one is damaged.
        OSError: the object store does not answer.
    """
    if (remote := remote_of(storage)) is None:
        return
    there = set(remote.folders()) - {*NOT_STUDIES}
    for folder in [path.parent for path in storage.glob(f"*/{STUDY_FILE}")]:
        if folder.name not in there and not remote.child(folder.name).child(STUDY_FILE).is_there:
            shutil.rmtree(folder)  # it was deleted on another machine
    for name in sorted(there):
        if in_full(name):
            download_study(storage / name)
        else:
            download_folder(storage / name, lambda file: file in KNOWN_TO_OTHERS, recursive=False)


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
        here, there = folder / LOG, files.get(LOG)
        if there and (not here.is_file() or here.stat().st_size < there.size):
            download(here)


def download_models(folder: Path) -> None:
    """Brings the models of a study in a mirror up to date, which trials wrote on other machines."""
    download_folder(folder / MODELS)


def is_downloaded(name: str) -> bool:
    first, last = Path(name).parts[0], Path(name).name
    is_of_driver = first in NOT_DOWNLOADED or first.startswith(JOURNAL)  # and Optuna's lock of it
    return not is_of_driver and not last.startswith(".")


def upload_log(folder: Path) -> None:
    """Uploads what only a driver writes: the log, and the end of the journal.

    Raises:
        OSError: the object store does not take it.
    """
    if is_mirrored(folder) and (log := folder / LOG).is_file():
        flush_journal(folder)
        upload(log, log)
