"""Deletes the files that a study no longer needs, and partial files of a killed driver."""

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
from search.storage.segments import flush_journal
from trainables.core.mirror import delete, delete_matching, names_of


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
        with suppress(OSError):
            flush_journal(self.folder)  # the end of the trial must be known before
        before = {each.trial_id for each in self.front}
        if record.state == "COMPLETE":
            known = sorted([*self.front, record], key=lambda each: each.trial_id)
            self.front = pareto_front(known, self.objectives)  # of equals the first, as at the end
        members = {each.trial_id for each in self.front}
        for trial_id in (before | {record.trial_id}) - members:
            with suppress(OSError):
                delete(model_folder(self.folder, trial_id))
        with suppress(OSError):
            delete(checkpoint_folder(self.folder, record.trial_id))


def prune_study_folder(
    folder: Path, records: Sequence[Record], objectives: Sequence[Objective]
) -> None:
    """Deletes all models but the front's, and checkpoints of trials that are not paused.

    No driver may run the study.
    """
    members = {record.trial_id for record in pareto_front(records, objectives)}
    going_on = {record.trial_id for record in records if record.state == "PAUSED"}
    for name, needed in ((MODELS, members), (CHECKPOINTS, going_on)):
        for trial_id in names_of(folder / name):
            if trial_id not in needed:
                delete(folder / name / trial_id)
    if not going_on:
        delete(folder / CHECKPOINTS)


def remove_partial_files(folder: Path) -> None:
    """Deletes the temporary and partial files of a driver that was killed."""
    delete(folder / SCRATCH)
    delete_matching(folder, lambda name: Path(name).name.startswith("."))
    for path in list(folder.rglob(".*")):
        if path.is_file() or path.is_symlink():
            with suppress(OSError):  # a worker that outlives its driver may have deleted it
                path.unlink()
