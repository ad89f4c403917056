"""A study: its file, its data and cost model, and the trials in its journal."""

from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from search.core.config import StudyConfig
from search.core.objectives import Objective, named_objectives
from search.core.record import Record
from search.storage.study_file import StudyFile
from search.storage.trials import RAY_ID, read_asked_records
from search.study.cost_model import CostModel
from search.study.latencies import with_latencies_of_here
from trainables.core.artifacts import ArtifactStore
from trainables.core.mirror_lock import SharedLock
from trainables.data.packed import PackedDataset
from trainables.training.setup import UnlabelledImages


@dataclass
class Study:
    """One study on its storage, as `prepare_study` makes it and `open_study` opens it."""

    file: StudyFile
    """What study.json holds when the study has been opened; its configuration is the study's."""
    stored_file: StudyFile | None
    """The previous content of study.json; None for a new study."""
    data: PackedDataset
    teacher_data: PackedDataset | None
    """The same data at the size that the teacher sees; None where it sees what students see."""
    was_packed: bool
    """Whether the packed data were found in the artifact store."""
    notes: Sequence[str]
    """Notes of the data source on the data."""
    unlabelled: UnlabelledImages | None
    """The unlabelled images that distilled students also learn on."""
    store: ArtifactStore
    cost_model: CostModel
    warm_start_records: Sequence[Record]
    """Finished trials of the study for the warm start."""
    lock: SharedLock
    """The lock that excludes other drivers of the study."""
    journal: optuna.Study | None = None
    """The Optuna study, once the study is open."""

    @property
    def config(self) -> StudyConfig:
        """The configuration of the study."""
        return self.file.config

    @property
    def teacher_epochs(self) -> int:
        """The length of the training of a teacher, where one is trained on the data."""
        assert self.file.teacher_epochs is not None
        return self.file.teacher_epochs

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives of the study."""
        return named_objectives(self.config.objectives)

    @property
    def is_open(self) -> bool:
        """Whether it exists on disk and is open."""
        return self.journal is not None

    @property
    def optuna_study(self) -> optuna.Study:
        """The Optuna study of an open study."""
        assert self.journal is not None
        return self.journal


def read_records(study: Study) -> list[Record]:
    """The records of all trials that were asked for so far, from the journal."""
    if not study.is_open:
        return []
    records = read_asked_records(study.optuna_study)
    return with_latencies_of_here(records, study.cost_model, study.file.latency_conditions)


def samples_left(study: Study) -> int:
    """The number of trials still to be launched; refused suggestions do not count."""
    if not study.is_open:
        return study.config.samples
    launched = [
        trial
        for trial in study.optuna_study.get_trials(deepcopy=False)
        if RAY_ID in trial.user_attrs and trial.state != TrialState.WAITING
    ]
    return max(0, study.config.samples - len(launched))
