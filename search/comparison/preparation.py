"""Checks a comparison, prepares its data, and opens its folder."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from search.core.comparison import Arm, plan_arms
from search.core.comparison_config import ComparisonConfig
from search.core.networks import named_teachers, teacher_source, weight_sources
from search.core.training_defaults import chosen_defaults
from search.storage.cleanup import remove_partial_files
from search.storage.layout import COMPARISON_FILE, LOG, artifact_folder
from search.storage.study_file import check_not_running, installed_versions, lock_study
from search.tracking.mlflow import check_tracking, make_store
from trainables.config import TrialConfig
from trainables.core import terminal
from trainables.core.artifacts import ArtifactStore
from trainables.core.config_base import FrozenConfig
from trainables.core.files import replace_file
from trainables.core.mirror_lock import SharedLock
from trainables.data.packed import PackedDataset
from trainables.models.configs import StudentConfig
from trainables.training.cost import predict_size_bytes
from trainables.training.defaults import Defaults
from trainables.training.setup import (
    UnlabelledImages,
    check_teacher_outputs,
    open_data,
    open_teacher_data,
    open_unlabelled_images,
)
from trainables.training.teacher import check_teacher
from trainables.training.weights import check_students, check_weights


class ComparisonFile(FrozenConfig):
    """The content of comparison.json."""

    id: str
    """Distinguishes comparisons of the same name, as after a folder was deleted."""
    config: ComparisonConfig
    versions: dict[str, str]
    data_digest: str
    unlabelled_digest: str | None = None
    """Identifies the unlabelled images; None: there are none."""


@dataclass(frozen=True)
class Comparison:
    """A comparison whose checks have passed and whose folder is open."""

    file: ComparisonFile
    arms: Sequence[Arm]
    defaults: Defaults
    data: PackedDataset
    teacher_data: PackedDataset | None
    """The same data at the size that the teacher sees; None where it sees what students see."""
    was_packed: bool
    notes: Sequence[str]
    unlabelled: UnlabelledImages | None
    store: ArtifactStore
    lock: SharedLock
    """Excludes other drivers of the comparison."""

    @property
    def config(self) -> ComparisonConfig:
        """The configuration of the comparison."""
        return self.file.config

    @property
    def trials(self) -> list[TrialConfig]:
        """The trainings of all arms for the first seed."""
        return [arm.configs[0] for arm in self.arms]

    @property
    def students(self) -> list[StudentConfig]:
        """The students of all arms."""
        return [trial.student for trial in self.trials]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return max(1, len(self.data.train) // self.trials[0].batch_size)


def prepare_comparison(config: ComparisonConfig) -> Comparison:
    """Makes all checks of a comparison first, and only then the first write.

    A comparison of the same name in the same storage goes on if the same is compared.

    Raises:
        ValueError: recipes, data, teacher, students or the store in MLflow break a rule, or the
            name is that of something else.
    """
    check_not_running(config)
    check_tracking(config.tracking_uri, config.storage)
    defaults = chosen_defaults(config)
    arms = plan_arms(config, defaults)
    trials = [arm.configs[0] for arm in arms]
    students = [trial.student for trial in trials]
    store = ArtifactStore(artifact_folder(config.storage, config.cache))
    opened = open_data(config.data, config.image_size, store)
    num_classes = len(opened.class_names)
    of_teacher = open_teacher_data(opened, config.data, config.image_size, config.teacher_size)
    if any(trial.needs_teacher for trial in trials):
        seen = (of_teacher or opened).canvas
        check_teacher(config.teacher, num_classes, seen, teacher_source(config))
        check_teacher_outputs(config.teacher_outputs, trials, num_classes, config.teacher_size)
    check_students(students, num_classes, opened.canvas)
    for trial in trials:
        predict_size_bytes(trial, num_classes)  # which checks the bits of its layers
    teachers, sources = named_teachers(config), weight_sources(config)
    check_weights([*students, *teachers], sources, store, opened.digest)
    if of_teacher:
        check_weights(teachers, sources, store, of_teacher.digest)
    found = open_unlabelled_images(
        config.unlabelled, config.image_size, opened, trials, config.teacher_size
    )
    file = build_comparison_file(config, opened.digest, found.digest if found else None)

    data = opened.pack()
    teacher_data = of_teacher.pack() if of_teacher else None
    unlabelled = found.pack() if found else None
    make_store(config.tracking_uri)
    lock = lock_study(config)
    replace_file(config.folder / COMPARISON_FILE, file.model_dump_json(indent=1))
    remove_partial_files(config.folder)
    terminal.keep_log(config.folder / LOG)
    was_packed, notes = opened.found is not None, opened.notes
    return Comparison(
        file, arms, defaults, data, teacher_data, was_packed, notes, unlabelled, store, lock
    )


def build_comparison_file(
    config: ComparisonConfig, data_digest: str, unlabelled_digest: str | None
) -> ComparisonFile:
    """The content of comparison.json.

    Raises:
        ValueError: the folder holds something else.
    """
    path, identifier = config.folder / COMPARISON_FILE, uuid.uuid4().hex
    if path.is_file():
        stored = ComparisonFile.read(path)
        if (stored.config.identity, stored.data_digest, stored.unlabelled_digest) != (
            config.identity,
            data_digest,
            unlabelled_digest,
        ):
            raise ValueError(
                f"--name must be new, or that of the same comparison, but {config.folder} holds "
                "one of other recipes, students, lengths, teachers or data"
            )
        identifier = stored.id
    elif config.folder.is_dir() and any(
        not p.name.startswith(".") for p in config.folder.iterdir()
    ):
        raise ValueError(f"--name must be new, but {config.folder} exists and is no comparison")
    return ComparisonFile(
        id=identifier,
        config=config,
        versions=installed_versions(),
        data_digest=data_digest,
        unlabelled_digest=unlabelled_digest,
    )
