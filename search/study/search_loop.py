"""Runs a study from its first trial to its report."""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from search.core.config import HOW, WHAT
from search.core.constraints import OverBudget
from search.core.networks import named_teachers, teacher_source, weight_sources
from search.core.pareto import describe_shared_span
from search.core.phase import AGAIN, OUTPUTS, SENSITIVITIES, SHARING, TEACHER, TRIALS
from search.core.record import Record
from search.execution.card_shares import CardShares
from search.execution.parallel import ParallelTraining
from search.execution.phase_clock import PhaseClock
from search.execution.places import places_of
from search.execution.ray_start import RayUnavailable
from search.execution.restart import is_stop_requested
from search.execution.session import RemoteRunner, connect
from search.execution.shutdown import GracefulShutdown, graceful_shutdown
from search.execution.stopping import Deadline
from search.execution.tuning import tune_trials
from search.execution.utilization import device_utilization
from search.storage.cleanup import ArtifactCleanup
from search.storage.layout import STOP_FILE, mlflow_artifact_folder, unopened_log_path
from search.storage.mirrored_studies import upload_log
from search.storage.study_file import StudyFile
from search.storage.trials import read_phases, store_phases, store_teacher_metrics
from search.study.builders import build_scheduler, build_searcher
from search.study.examples import keep_examples
from search.study.expected_time import expect_time
from search.study.preparation import open_study
from search.study.prerequisites import (
    by_memory,
    execution_config,
    keep_teacher_outputs,
    measure_sensitivities,
)
from search.study.recovery import recover_study
from search.study.repetition import train_front_again
from search.study.report import tracking_timeout_s, write_report
from search.study.study import Study, samples_left
from search.study.verification import print_errors, violations
from search.tracking.callbacks import AsyncCallback
from search.tracking.console import ConsoleProgress
from search.tracking.mlflow import MlflowTracker, data_tags, experiment_name
from search.tracking.remaining_time import clock_after
from trainables.core import terminal
from trainables.core.artifacts import present
from trainables.core.errors import TrialFailed
from trainables.core.flags import written_values
from trainables.core.progress import progress_to
from trainables.teachers.averaging import choose_averaging
from trainables.training.sensitivity import cache_sensitivity
from trainables.training.setup import (
    output_mode,
    say_data,
    say_unlabelled,
    set_up_teacher,
    set_up_weights,
)
from trainables.training.teacher import prepare_teacher


def run_study(study: Study) -> int:
    """Runs a study to its end and gives the exit status of the command."""
    config = study.config
    tracking = MlflowTracker(
        config.tracking_uri,
        experiment=experiment_name(config.data, study.data),
        study_name=config.name,
        study_id=study.file.id,
        artifact_root=mlflow_artifact_folder(config.storage),
        tags={"space": config.space, **data_tags(study.unlabelled)},
        class_names=study.data.class_names,
        settings=study_settings(study),
        objectives=study.objectives,
    )
    records: list[Record] = []
    if study.stored_file:
        with progress_to(terminal.print_step):
            open_study(study)
            records = recover_study(study)
    progress = ConsoleProgress(config, records, samples_left(study), study.file.label_size)
    say_data(study.data, study.was_packed, study.notes, progress.record)
    say_unlabelled(study.unlabelled, progress.record)
    interrupted = is_stop_requested()
    if samples_left(study) and not interrupted:
        try:
            with graceful_shutdown(
                config.folder / STOP_FILE, lambda: interruption_message(study)
            ) as shutdown:
                try:
                    search(study, records, progress, tracking, shutdown)
                finally:
                    if study.is_open:
                        recover_study(study)
        except KeyboardInterrupt:
            interrupted = True
        except RayUnavailable as error:
            raise OSError(f"{error}; {continuation_hint(study)}") from error
        except (OverBudget, TrialFailed, OSError):
            with suppress(OSError):  # a full disk: the record is in the journal
                write_report(study, tracking, interrupted=True)
                upload_log(config.folder)
            raise
    if not study.is_open:
        raise KeyboardInterrupt
    with progress_to(progress.record):
        progress.record("writing the report")
        records = write_report(study, tracking, interrupted)
    consistent = True
    if study.stored_file:
        progress.record("checking the study")
        consistent = is_consistent(study.file, tracking.is_behind)
    upload_log(config.folder)
    progress.conclude(records, tracking.page, interrupted)
    if interrupted:
        return 130
    return 0 if consistent and any(record.state == "COMPLETE" for record in records) else 1


def study_settings(study: Study) -> dict[str, str]:
    """The settings of a study by name, for its run in MLflow."""
    versions = study.file.versions.items()
    return {
        **written_values(study.config, (WHAT, HOW)),
        **{f"version.{package}": version for package, version in versions},
        "hypervolume_span": describe_shared_span(study.objectives, study.cost_model.commonest_miou),
    }


def check_least_miou(least_miou: float | None, reference_miou: float, of: str) -> None:
    """Raises ValueError where no student can be expected to have the least mIoU that is of use."""
    if least_miou is not None and least_miou >= reference_miou:
        raise ValueError(
            f"--least-miou must be below the mIoU of {of}, {reference_miou:.3f}, but got "
            f"{least_miou:g}; begin another study, which takes what this one has prepared"
        )


def interruption_message(study: Study) -> str:
    """The message where the driver ends without a report."""
    return f"interrupted; {continuation_hint(study)}"


def continuation_hint(study: Study) -> str:
    """A text that says how to continue an interrupted study."""
    if study.is_open:
        return f"go on with --resume {study.config.name}"
    return f"study {study.config.name} has not begun: the same command begins it"


def log_hint(study: Study) -> str:
    """A text with the path of the log."""
    if not study.is_open:
        terminal.keep_log(unopened_log_path(study.config.storage, study.config.name))
    path = terminal.log_file()
    return f" (details are in {path})" if path else ""


def is_consistent(file: StudyFile, is_behind: bool) -> bool:
    """Whether all records of a study agree; MLflow's are not checked where it `is_behind`."""
    return not print_errors(violations(file, file.config.folder, with_mlflow=not is_behind))


def search(
    study: Study,
    records: Sequence[Record],
    progress: ConsoleProgress,
    tracking: MlflowTracker,
    shutdown: GracefulShutdown,
) -> None:
    """Prepares the teacher and trains the trials that are left; `records` are those before them.

    Raises:
        DiskFull: a disk is full.
    """
    config = study.config
    with connect([*config.resume_arguments, *terminal.verbosity_flags()], shutdown):
        if not study.is_open:
            open_study(study)
        if shutdown.requested:
            raise KeyboardInterrupt
        before = read_phases(study.optuna_study)
        keep = partial(store_phases, study.optuna_study, before)
        clock = PhaseClock(device_utilization(config.device), keep)
        try:
            run_phases(study, records, progress, tracking, shutdown, clock)
        finally:
            with suppress(OSError):  # a full disk: what is lost decides nothing
                clock.close()
            progress.record(str(clock.times))


def run_phases(
    study: Study,
    records: Sequence[Record],
    progress: ConsoleProgress,
    tracking: MlflowTracker,
    shutdown: GracefulShutdown,
    clock: PhaseClock,
) -> None:
    """What `search` does while Ray runs; `clock` measures the phases.

    Raises:
        DiskFull: a disk is full.
    """
    config = study.config
    run = execution_config(study, shutdown)
    remote = RemoteRunner(config, shutdown, progress.record, on_step=clock.on_step)
    places = places_of(config)
    set_up_weights(
        run, config.students, weight_sources(config), progress.record, named_teachers(config)
    )
    if expected := expect_time(study, remote, run, places.capacity(), progress.record):
        search_s = min(expected.search_s, config.time_budget_s or math.inf)
        end = clock_after(expected.teacher_s + search_s)
        again = ""
        if config.time_budget_s is not None:
            latest = clock_after(expected.teacher_s + config.time_budget_s)
            again = f"; then the front with another seed, until {latest} at the latest"
        progress.record(f"{expected}, until {end}{again}")
        progress.remaining.expected_s = expected.search_s
    samples = study.cost_model.completed_samples()
    own = study.cost_model.own_teacher_config(study.teacher_epochs)
    clock.enter(TEACHER)
    if any(trial.needs_teacher for trial in samples):
        wanted = output_mode(config.teacher_outputs, samples, progress.record, config.teacher_size)
        averaging = choose_averaging(
            config.teacher_seeds, config.teacher_flip, is_live=wanted == "live"
        )
        run, teacher = set_up_teacher(
            run, config.teacher, own, progress.record, remote, teacher_source(config), averaging
        )
        store_teacher_metrics(study.optuna_study, teacher.metrics)
        keep_examples(study, present(teacher.file))
        progress.teacher_miou = teacher.miou
        check_least_miou(config.least_miou, teacher.miou, "the teacher")
        clock.enter(OUTPUTS)
        run = keep_teacher_outputs(study, progress, remote, run, wanted, averaging)
    elif config.least_miou is not None and own.recipe.is_reference:
        progress.record(f"measuring the mIoU of {own.student.describe()}")
        whole = remote(run, prepare_teacher, "auto", own)
        check_least_miou(config.least_miou, whole.miou, "the network to compress")
    clock.enter(SENSITIVITIES)
    measure_all = ParallelTraining(
        partial(cache_sensitivity, kind=config.quantizer_name),
        run,
        places,
        shutdown,
        config.folder,
        progress.record,
        clock.on_step,
    )
    measure_sensitivities(study, progress, remote, run, measure_all)
    clock.enter(SHARING)
    if config.gpus_per_trial == "auto":
        trials = by_memory(study, study.cost_model.completed_samples())
        places.shares = CardShares(config, trials, progress.record, remote, run)
    clock.enter(TRIALS)
    async_callback = AsyncCallback(tracking)
    for record in records:
        async_callback.replayed(record)
    deadline = Deadline(config.time_budget_s, config.num_epochs)
    searcher = build_searcher(
        study,
        run,
        [async_callback, progress, ArtifactCleanup(config.folder, study.objectives, records)],
        lambda: deadline.is_over or shutdown.requested,
        places.next,
    )
    scheduler = build_scheduler(study, searcher, records)
    try:
        with progress:
            tune_trials(searcher, scheduler, config, deadline, shutdown, progress, clock.on_step)
    finally:
        progress.record("delivering the record to MLflow")
        timeout_s = tracking_timeout_s(shutdown.requested)
        tracking.is_behind = not async_callback.close(timeout_s)
    if searcher.no_room:
        raise OSError(searcher.no_room)
    if searcher.end:
        progress.record(f"warning: ended before all trials were asked: {searcher.end}")
    if config.time_budget_s is not None and not shutdown.requested:
        clock.enter(AGAIN)
        try:
            train_front_again(study, run, places, deadline, shutdown, progress)
        except KeyboardInterrupt:  # the search itself has ended
            progress.record("stopped before the whole front was trained again")
