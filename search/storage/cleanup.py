"""Deletes the files that a study no longer needs, and partial files of a killed driver."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from search.core.objectives import Objective
from search.core.pareto import pareto_front
from search.core.record import Record
from search.storage.layout import (
    CHECKPOINTS,
    MODELS,
    SCRATCH,
    checkpoint_folder,
    model_folder,
)


class ArtifactCleanup:
    """A `Callback` that keeps only checkpoints of unfinished trials and models of the front."""

    def __init__(
        self, folder: Path, objectives: Sequence[Objective], records: Sequence[Record]
    ) -> None:
        self.folder, self.objectives = folder, objectives
        self.front = pareto_front(records, objectives)

    def started(self, record: Record) -> None:
        pass

    def reported(self, record: Record) -> None:
        pass

    def ended(self, record: Record) -> None:
        if record.state == "PAUSED":
            return
        before = {each.trial_id for each in self.front}
        if record.state == "COMPLETE":
            known = sorted([*self.front, record], key=lambda each: each.trial_id)
            self.front = pareto_front(known, self.objectives)  # of equals the first, as at the end
        members = {each.trial_id for each in self.front}
        for trial_id in (before | {record.trial_id}) - members:
            shutil.rmtree(model_folder(self.folder, trial_id), ignore_errors=True)
        shutil.rmtree(checkpoint_folder(self.folder, record.trial_id), ignore_errors=True)


def prune_study_folder(
    folder: Path, records: Sequence[Record], objectives: Sequence[Objective]
) -> None:
    """Deletes all models but the front's, and checkpoints of trials that are not paused.

    No driver may run the study.
    """
    members = {record.trial_id for record in pareto_front(records, objectives)}
    going_on = {record.trial_id for record in records if record.state == "PAUSED"}
    for name, needed in ((MODELS, members), (CHECKPOINTS, going_on)):
        for path in (folder / name).glob("*"):
            if path.name not in needed:
                shutil.rmtree(path)
    if not going_on:
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def remove_partial_files(folder: Path) -> None:
    """Deletes the temporary and partial files of a driver that was killed."""
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    for path in list(folder.rglob(".*")):
        if path.is_file() or path.is_symlink():
            with suppress(OSError):  # a worker that outlives its driver may have deleted it
                path.unlink()
