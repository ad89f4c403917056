"""The journal of a study: Optuna's append-only log, one JSON document per line."""

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from search.core.objectives import Objective
from search.storage.layout import JOURNAL
from search.storage.segments import begin_upload, download_journal, upload_appended
from trainables.core.errors import DiskFull
from trainables.core.files import is_full_disk


def open_journal(folder: Path, name: str, objectives: Sequence[Objective]) -> optuna.Study:
    """The Optuna study in a folder, created where there is none; only the driver may call this.

    Raises:
        ValueError: the journal is damaged.
    """
    download_journal(folder)  # again, now that no other driver writes it
    repair(folder / JOURNAL)
    begin_upload(folder)
    for lock in folder.glob(f"{JOURNAL}.lock*"):  # left by a driver killed while it wrote
        lock.unlink()
    directions = [objective.direction for objective in objectives]
    with replaying(folder):
        study = optuna.create_study(
            storage=journal_storage(folder),
            study_name=name,
            directions=directions,
            load_if_exists=True,
        )
    if study.metric_names is None:
        name_metrics(study, objectives)
    return study


def name_metrics(study: optuna.Study, objectives: Sequence[Objective]) -> None:
    """Names the objectives of a study as Optuna Dashboard shows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names([objective.metric for objective in objectives])


def read_journal(folder: Path, name: str) -> optuna.Study:
    """The Optuna study in a folder, for reading.

    Raises:
        ValueError: there is none, or the journal is damaged.
    """
    if not (folder / JOURNAL).is_file():
        raise ValueError(f"{folder / JOURNAL} must hold study {name}, but is not there")
    with replaying(folder):
        storage = journal_storage(folder)
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        raise ValueError(f"{folder / JOURNAL} must hold study {name}, but does not") from error


@contextmanager
def replaying(folder: Path) -> Iterator[None]:
    """Turns an error of Optuna in the block into a ValueError that names the journal."""
    try:
        yield
    except (OSError, optuna.exceptions.OptunaError):
        raise
    except Exception as error:  # lines of valid JSON can still have any content
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{folder / JOURNAL} must be Optuna's journal, but {reason}") from error


class WholeLines(JournalFileBackend):
    """A journal in which a full disk leaves no partial line."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        length = self.path.stat().st_size
        try:
            super().append_logs(logs)
        except OSError as error:
            os.truncate(self.path, length)
            if is_full_disk(error):
                raise DiskFull(self.path.parent, self.path.name) from error
            raise
        upload_appended(self.path)


def journal_storage(folder: Path) -> JournalStorage:
    return JournalStorage(WholeLines(folder / JOURNAL))


class Beginning(BaseJournalBackend):
    """A journal in memory that starts with the first lines of another."""

    def __init__(self, lines: Sequence[dict[str, Any]]) -> None:
        self.lines = list(lines)

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self.lines[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lines += json.loads(json.dumps(logs))


def study_at(lines: Sequence[dict[str, Any]], name: str) -> optuna.Study:
    """A copy of the Optuna study as it was after these lines of its journal."""
    return optuna.load_study(study_name=name, storage=JournalStorage(Beginning(lines)))


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """All complete lines of a study's journal."""
    lines = (folder / JOURNAL).read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if is_complete_line(line)]


def check_journal(folder: Path) -> None:
    """Checks the journal in a folder, if there is one, without changing it.

    Raises:
        ValueError: it is damaged, other than by an incomplete last line, which `repair` drops.
    """
    if (folder / JOURNAL).is_file():
        complete_length(folder / JOURNAL)
        with replaying(folder):
            journal_storage(folder)


def repair(path: Path) -> None:
    """Drops an incomplete last line, which a driver killed while writing leaves.

    Raises:
        ValueError: another line is damaged.
    """
    if path.is_file() and (length := complete_length(path)) < path.stat().st_size:
        os.truncate(path, length)


def complete_length(path: Path) -> int:
    """The length of a journal in bytes, without an incomplete last line.

    Raises:
        ValueError: another line is damaged.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    length = 0
    for number, line in enumerate(lines, start=1):
        if not is_complete_line(line):
            if number < len(lines):
                raise ValueError(
                    f"a journal must hold a JSON document in each line, but line {number} of "
                    f"{path} is damaged"
                )
            return length
        length += len(line)
    return length


def is_complete_line(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return line.endswith(b"\n")
