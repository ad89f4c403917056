"""Deletes what a study no longer needs, and what a driver that was killed left half-written."""

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
    """An Observer that keeps checkpoints of trials that go on, and models of the front, alone."""

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
    """Deletes what the trials of a study that does not run have left over, but for the front's."""
    members = {record.trial_id for record in pareto_front(records, objectives)}
    going_on = {record.trial_id for record in records if record.state == "PAUSED"}
    for name, needed in ((MODELS, members), (CHECKPOINTS, going_on)):
        for path in (folder / name).glob("*"):
            if path.name not in needed:
                shutil.rmtree(path)
    if not going_on:
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def remove_partial_files(folder: Path) -> None:
    """Deletes what a driver that was killed has left half-written."""
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    for path in list(folder.rglob(".*")):
        if path.is_file() or path.is_symlink():
            with suppress(OSError):  # a worker that outlives its driver may have been quicker
                path.unlink()
