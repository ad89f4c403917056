"""Checks a study, prepares its data, and opens it on disk."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import optuna

from search.algorithms.candidates import Params
from search.algorithms.warm_start import read_warm_start_records, select_points_to_evaluate
from search.core.config import StudyConfig
from search.core.networks import named_teachers, teacher_source, weight_sources
from search.core.recipe_list import write_teacher
from search.core.record import Record
from search.storage.cleanup import remove_partial_files
from search.storage.driver_status import remove_driver_status
from search.storage.journal import check_journal, open_journal
from search.storage.layout import LOG, artifact_folder
from search.storage.study_file import (
    StudyFile,
    check_not_running,
    installed_versions,
    lock_study,
    proposed_by,
    read_study_file,
    write_study_file,
)
from search.storage.trials import PROPOSED_BY, asked_trials
from search.study.cost_model import CostModel, has_starts
from search.study.latencies import (
    Conditions,
    check_latencies,
    read_conditions,
    shared_conditions,
    with_latencies_of_here,
)
from search.study.study import Study
from search.tracking.mlflow import check_tracking, make_store
from spaces import ORIGINAL
from trainables.config import TrialConfig
from trainables.core import terminal
from trainables.core.artifacts import ArtifactStore
from trainables.core.errors import NotExportable
from trainables.core.files import hash_file
from trainables.core.optional_dependencies import require_onnx
from trainables.core.progress import announce
from trainables.data.configs import LabelSize
from trainables.models.configs import StudentConfig
from trainables.training.defaults import PRETRAINING_LENGTH, augmentation_for, defaults_for
from trainables.training.evaluation import commonest_miou
from trainables.training.setup import (
    check_teacher_outputs,
    open_data,
    open_teacher_data,
    open_unlabelled_images,
)
from trainables.training.teacher import check_teacher
from trainables.training.weights import check_students, check_weights

GRACE = 27
"""A full training is so many times as long as the time before the first rung: three rungs."""


def prepare_study(config: StudyConfig, resumed: bool) -> Study:
    """Makes all checks of a study first, and only then the first write.

    Checks download what they need: VOC 2012 into the storage, and weights of torchvision.
    Six things can only be checked after the first write:

    - The budget of a study that asks for latencies, which are measured and kept as artifacts.
    - Images and masks, each of which is decoded when data are packed.
    - Whether MLflow takes the address of a SQLite store that was absent.
    - Whether another driver has taken the lock of the study since it was checked.
    - The budget of a space whose bit-widths follow from sensitivities, which are measured.
    - Whether the teacher has the mIoU of `--least-miou`, where it is trained.

    Raises:
        ValueError: the study as it is stored, its data, its teacher, its budget or its place in
            MLflow break a rule.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stored_file = read_study_file(config.folder) if resumed else None
    check_not_running(config)
    check_journal(config.folder)
    warm_start_records = read_warm_start_records(config.storage, config.warm_start, resumed)
    if config.wants_latency:
        require_onnx("--objectives latency, or --max-latency,")
    check_tracking(config.tracking_uri, config.storage)
    store = ArtifactStore(artifact_folder(config.storage, config.cache))
    label_size = stored_file.label_size if stored_file else "own"
    opened = open_data(config.data, config.image_size, store, label_size)
    num_images = opened.source.num_samples("train")
    class_names = opened.class_names
    config = with_lengths(config, num_images, len(class_names))
    of_teacher = open_teacher_data(opened, config.data, config.image_size, config.teacher_size)
    seen = (of_teacher or opened).canvas
    check_teacher(config.teacher, len(class_names), seen, teacher_source(config))
    check_students(config.students, len(class_names), opened.canvas)
    teachers, sources = named_teachers(config), weight_sources(config)
    check_weights([*config.students, *teachers], sources, store, opened.digest)
    if of_teacher:
        check_weights(teachers, sources, store, of_teacher.digest)
    cost_model = CostModel(config, len(class_names), opened.canvas, store)
    conditions = cost_model.latency_conditions()
    check_latencies(stored_file, config, conditions)
    warm_start_conditions = None
    if config.wants_latency:
        warm_start_conditions = read_conditions(config.storage, config.warm_start, len(class_names))
    sampled = cost_model.sampled_configs()
    if not resumed:
        check_quantization(config, sampled)
    found = open_unlabelled_images(
        config.unlabelled, config.image_size, opened, sampled, config.teacher_size
    )
    file = build_study_file(
        config,
        stored_file,
        opened.digest,
        found.digest if found else None,
        class_names,
        label_size,
        conditions,
        stored_file.teacher_epochs
        if stored_file
        else config.teacher_epochs or cost_model.affordable_teacher_epochs(num_images),
    )
    if not config.wants_latency:
        cost_model.check_budget()
    check_teacher_outputs(config.teacher_outputs, sampled, len(class_names), config.teacher_size)

    if config.wants_latency:
        announce("measuring the latencies of the space")
        try:
            cost_model.measure_latencies()
        except NotExportable as error:
            raise ValueError(f"--objectives latency and --max-latency: {error}") from error
        cost_model.check_budget()
    warm_start_records = with_latencies_of_here(
        warm_start_records, cost_model, warm_start_conditions
    )
    warm_start_records = with_ram(warm_start_records, cost_model)
    data = opened.pack()
    unlabelled = found.pack() if found else None
    cost_model.commonest_miou = commonest_miou(data)
    teacher_data = of_teacher.pack() if of_teacher else None
    make_store(config.tracking_uri)
    return Study(
        file=file,
        stored_file=stored_file,
        data=data,
        teacher_data=teacher_data,
        was_packed=opened.found is not None,
        notes=opened.notes,
        unlabelled=unlabelled,
        store=store,
        cost_model=cost_model,
        warm_start_records=warm_start_records,
        lock=lock_study(config),
    )


def with_lengths(config: StudyConfig, num_images: int, num_classes: int) -> StudyConfig:
    """The configuration with the lengths and the augmentation that it leaves to the data.

    Quantized students are trained for half of the default length, after starts of all of it.
    """
    defaults = defaults_for(config.data, config.device)
    stages = PRETRAINING_LENGTH if has_starts(config) else 1
    num_steps = config.steps or defaults.steps_for(num_images, num_classes)
    if config.steps is None and config.data != "shapes":
        num_steps //= stages
    epochs = config.epochs or defaults.num_epochs(num_steps, num_images)
    longest = stages * (defaults.num_steps_of(epochs, num_images) if config.epochs else num_steps)
    return config.replace(
        epochs=epochs,
        grace_epochs=config.grace_epochs or max(1, round(epochs / GRACE)),
        augmentation=config.augmentation or augmentation_for(longest),
    )


def check_quantization(config: StudyConfig, sampled: Sequence[TrialConfig]) -> None:
    """Checks that a study whose quantization is chosen has students that are quantized.

    Raises:
        ValueError: it has none.
    """
    chosen = {"--calibration": ",".join(config.calibration or ()), "--quantizer": config.quantizer}
    for flag, value in chosen.items():
        if value and not any(each.recipe.quantized for each in sampled):
            raise ValueError(
                f"{flag} must be for students that are quantized, but got {value}, and no student "
                f"of --space {config.space} is"
            )


def with_ram(records: Sequence[Record], cost_model: CostModel) -> list[Record]:
    """The records with the memory for activations, which reports of older versions lack."""
    return [
        replace(
            record, metrics=record.metrics.replace(ram_bytes=cost_model.ram_bytes(record.config))
        )
        if record.config and record.metrics and record.metrics.ram_bytes is None
        else record
        for record in records
    ]


def build_study_file(
    config: StudyConfig,
    stored_file: StudyFile | None,
    data_digest: str,
    unlabelled_digest: str | None,
    class_names: tuple[str, ...],
    label_size: LabelSize,
    conditions: Conditions,
    teacher_epochs: int | None,
) -> StudyFile:
    """The content of study.json.

    Raises:
        ValueError: data, unlabelled images or teacher differ from those that the resumed study
            began with.
    """
    file = None if isinstance(config.teacher, StudentConfig) else Path(config.teacher)
    teacher_digest = hash_file(file) if file and file.is_file() else None
    if stored_file and stored_file.data_digest != data_digest:
        raise ValueError(
            f"a resumed study must keep its data, but {config.data} has changed: it is "
            f"now {data_digest}, {config.name} began with {stored_file.data_digest}"
        )
    if stored_file and stored_file.unlabelled_digest != unlabelled_digest:
        raise ValueError(
            f"a resumed study must keep its unlabelled images, but {config.unlabelled} is now "
            f"{unlabelled_digest}, {config.name} began with {stored_file.unlabelled_digest}"
        )
    if stored_file and (stored_file.teacher_digest or stored_file.config.teacher) != (
        teacher_digest or config.teacher
    ):
        raise ValueError(
            f"a resumed study must keep its teacher, but {write_teacher(config.teacher)} is not "
            f"that of {config.name}, which began with {write_teacher(stored_file.config.teacher)}"
        )
    return StudyFile(
        id=stored_file.id if stored_file else uuid.uuid4().hex,
        config=config,
        versions=installed_versions(),
        data_digest=data_digest,
        unlabelled_digest=unlabelled_digest,
        teacher_digest=teacher_digest,
        class_names=class_names,
        label_size=label_size,
        teacher_epochs=teacher_epochs,
        latency_conditions=shared_conditions(stored_file, conditions),
    )


def open_study(study: Study) -> None:
    """Creates the study on disk, or opens the existing one.

    Raises:
        ValueError: its journal is damaged.
    """
    folder = study.config.folder
    remove_partial_files(folder)
    remove_driver_status(folder)  # of a driver that was killed
    write_study_file(study.file)
    terminal.keep_log(folder / LOG)
    study.journal = load_or_create_study(study)


def load_or_create_study(study: Study) -> optuna.Study:
    """The Optuna study in the folder's journal; a new one starts with enqueued points.

    These are from the front of an earlier study, or the points to evaluate of the space. A network
    that is compressed comes first, as it is.
    """
    config = study.config
    journal = open_journal(config.folder, config.name, study.objectives)
    if not asked_trials(journal):  # a driver may have died after enqueueing some of them
        first: Sequence[Params] = study.cost_model.named.points_to_evaluate
        if study.warm_start_records:
            first = select_points_to_evaluate(
                study.warm_start_records, study.cost_model.named.space, study.objectives
            )
        for student in config.students:
            if student.is_trained:
                original = {ORIGINAL: student.describe()}
                journal.enqueue_trial({}, user_attrs=original, skip_if_exists=True)
        for settings in first:
            journal.enqueue_trial(dict(settings), skip_if_exists=True)
    if journal.user_attrs.get(PROPOSED_BY) != (now := proposed_by(config)):
        journal.set_user_attr(PROPOSED_BY, now)
    return journal
