"""Runs a study from its first trial to its report."""

from contextlib import suppress
from pathlib import Path

from search.core.constraints import OverBudget
from search.execution import resources
from search.execution.cluster_address import on_cluster
from search.execution.restart import take_stop_request
from search.execution.session import RayUnavailable, RemoteRunner, connect, max_pending_trials
from search.execution.shutdown import GracefulShutdown, graceful_shutdown
from search.execution.stopping import Deadline
from search.execution.tuning import tune_trials
from search.storage.cleanup import ArtifactCleanup
from search.storage.study_file import StudyFile
from search.study.preparation import keep_teacher_outputs, share_gpu
from search.study.study import IN_A_HURRY_S, LAST_WORDS_S, Study
from search.study.verification import print_errors, violations
from search.tracking.callbacks import AsyncCallback
from search.tracking.console import ConsoleProgress
from search.tracking.mlflow import MlflowTracker
from trainables.config import ExecutionConfig
from trainables.core import terminal
from trainables.core.errors import TrialFailed
from trainables.training.setup import set_up_teacher

STOP_FILE = ".stop"
"""In the study's folder: asks its trainings to keep where they stand and to leave."""


def run_study(study: Study) -> int:
    """Runs a study to its end and gives the exit status of the command."""
    config = study.config
    tracking = MlflowTracker(
        config.tracking_uri,
        experiment=f"{Path(config.data).name} {study.data.height}x{study.data.width} "
        f"{study.data.digest[-8:]}",
        study_name=config.name,
        study_id=study.file.id,
        artifact_root=config.storage / "mlartifacts",
        tags={"space": config.space},
    )
    if study.known:
        study.open().recover()
    progress = ConsoleProgress(config, study.records(), study.samples_left())
    progress.say(f"data: {study.data}, {'found' if study.found else 'packed'} in {study.data.path}")
    for note in study.notes:
        progress.say(f"note on the data: {note}")
    interrupted = take_stop_request()
    if study.samples_left() and not interrupted:
        try:
            with graceful_shutdown(config.folder / STOP_FILE, study.last_words) as shutdown:
                try:
                    search(study, progress, tracking, shutdown)
                finally:
                    if study.is_open:
                        study.recover()
        except KeyboardInterrupt:
            interrupted = True
        except RayUnavailable as error:
            raise OSError(f"{error}; {study.way_on}") from error
        except (OverBudget, TrialFailed, OSError):
            with suppress(OSError):  # a full disk: the journal has it all
                study.report(tracking, interrupted=True)
            raise
    if not study.is_open:
        raise KeyboardInterrupt
    records = study.report(tracking, interrupted)
    progress.conclude(records, tracking.page, interrupted)
    whole = study.known is None or is_consistent(study.file, tracking.is_behind)
    if interrupted:
        return 130
    return 0 if whole and study.num_finished() else 1


def kept_log(study: Study) -> str:
    """Where the words of libraries are kept, also of a study that has not begun, in words."""
    if not study.is_open:
        terminal.keep_log(study.config.storage / f".{study.config.name}.log")
    path = terminal.log_file()
    return f" (what libraries said is in {path})" if path and path.stat().st_size else ""


def is_consistent(file: StudyFile, is_behind: bool) -> bool:
    """Whether all records of a study agree, but for those of MLflow where it `is_behind`."""
    return not print_errors(violations(file, file.config.folder, with_mlflow=not is_behind))


def search(
    study: Study, progress: ConsoleProgress, tracking: MlflowTracker, shutdown: GracefulShutdown
) -> None:
    """Prepares the teacher and trains the trials that are left.

    Raises:
        DiskFull: there is no room to go on.
    """
    config = study.config
    share = resources.fixed_resources(config)
    progress.say("starting Ray" if not on_cluster() else "connecting to the cluster")
    with connect(config, shutdown):
        if not study.is_open:
            study.open()
        if shutdown.requested:
            raise KeyboardInterrupt
        run = ExecutionConfig(
            data=study.store.root / study.data.digest,
            artifacts=study.store.root,
            device=config.device,
            checkpoint_every_s=config.checkpoint_every_s,
            stop_file=shutdown.stop_file,
            timeout_s=config.trial_timeout_s,
        )
        remote = RemoteRunner(config, shutdown, progress.record)
        if any(trial.needs_teacher for trial in study.cost_model.completed_samples()):
            own = study.cost_model.defaults.default_teacher_config()
            run = set_up_teacher(run, config.teacher, own, progress.say, remote)
            run = keep_teacher_outputs(study, progress, remote, run)
        study.measure_sensitivities(run, progress, remote)
        if config.gpus_per_trial == "auto":
            share = share_gpu(study, progress, remote, run)
        run = run.replace(num_threads=max(1, int(share.cpus)), gpu_share=min(1, share.gpus) or 1.0)
        async_callback = AsyncCallback(tracking)
        records = study.records()
        for record in records:
            async_callback.replayed(record)
        deadline = Deadline(config.time_budget_s, config.epochs)
        searcher = study.searcher(
            run,
            [async_callback, progress, ArtifactCleanup(config.folder, study.objectives, records)],
            lambda: deadline.is_over or shutdown.requested,
            lambda: max_pending_trials(share),
        )
        scheduler = study.scheduler(searcher)
        try:
            with progress:
                tune_trials(searcher, scheduler, config, share, deadline, shutdown, progress.record)
        finally:
            patience_s = IN_A_HURRY_S if shutdown.requested else LAST_WORDS_S
            tracking.is_behind = not async_callback.close(patience_s)
        if searcher.no_room:
            raise OSError(searcher.no_room)
        if searcher.end:
            progress.say(f"ended before all trials were asked: {searcher.end}")
