"""A study: what it is, what it needs, and the trials that its journal holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from filelock import FileLock
from optuna.trial import TrialState

from search.core.config import StudyConfig
from search.core.objectives import Objective, named_objectives
from search.core.record import Record
from search.storage.study_file import StudyFile
from search.storage.trials import RAY_ID, asked_trials, read_record
from search.study.cost_model import CostModel
from search.study.latencies import with_latencies_of_here
from trainables.core.artifacts import ArtifactStore
from trainables.data.packed import PackedDataset


@dataclass
class Study:
    """One study on its storage, as `prepare_study` makes it and `open_study` opens it."""

    file: StudyFile
    """What study.json holds when the study has been opened; its configuration is the study's."""
    stored_file: StudyFile | None
    """What study.json held before; None of a new study."""
    data: PackedDataset
    was_packed: bool
    """Whether an earlier study had packed the data."""
    notes: Sequence[str]
    """What the source of the data has to say of it."""
    store: ArtifactStore
    cost_model: CostModel
    warm_start_records: Sequence[Record]
    """Finished trials of the study that this one begins with."""
    lock: FileLock
    """Keeps other drivers off the study."""
    journal: optuna.Study | None = None
    """The study in Optuna, once it is open."""

    @property
    def config(self) -> StudyConfig:
        """What the study was asked for."""
        return self.file.config

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What the study optimises."""
        return named_objectives(self.config.objectives)

    @property
    def is_open(self) -> bool:
        """Whether it has begun on disk."""
        return self.journal is not None

    @property
    def optuna_study(self) -> optuna.Study:
        """The journal of an open study."""
        assert self.journal is not None
        return self.journal


def read_records(study: Study) -> list[Record]:
    """All trials that were asked for so far, as the journal has them."""
    if not study.is_open:
        return []
    records = [read_record(trial) for trial in asked_trials(study.optuna_study)]
    return with_latencies_of_here(records, study.cost_model, study.file.latency_conditions)


def samples_left(study: Study) -> int:
    """Trials still to be trained to their end; refused ones do not count."""
    if not study.is_open:
        return study.config.samples
    launched = [
        trial
        for trial in study.optuna_study.get_trials(deepcopy=False)
        if RAY_ID in trial.user_attrs and trial.state != TrialState.WAITING
    ]
    return max(0, study.config.samples - len(launched))
