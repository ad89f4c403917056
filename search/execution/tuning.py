"""Runs the trials of a study with Ray Tune."""

from collections import Counter, deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from pyarrow.fs import LocalFileSystem
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.stopper import CombinedStopper

from search.core.config import StudyConfig
from search.execution.cluster_address import on_cluster
from search.execution.driver_callbacks import (
    DrainingNodes,
    DriverCallback,
    JoinedNodes,
    NothingRuns,
    StatusWriter,
    TrialPrices,
)
from search.execution.ray_internals import trials_in_idle_workers
from search.execution.searcher import RESOURCES, OptunaSearcher
from search.execution.shared_storage import StorageNotShared
from search.execution.shutdown import GracefulShutdown
from search.execution.stopping import Deadline, StopAll
from search.execution.worker_failure import failure_reason
from search.storage.driver_status import remove_driver_status
from search.storage.layout import CHECKPOINTS, SCRATCH
from search.storage.trials import add_device_time
from search.tracking.console import ConsoleProgress
from trainables.core.files import is_full_disk
from trainables.core.mirror import delete
from trainables.core.progress import PROGRESS_FILE, ProgressFiles
from trainables.trainable import TRAINING, StudentTrainable
from trainables.training.trial import MEASURING

MAX_RETRIES = 3
"""Maximum number of restarts of a trial whose process died."""
SHOWN_BY_BARS = (f"{TRAINING}: ", f"{MEASURING}: ")
"""What progress lines begin with that say no more than a trial's bar."""


def tune_trials(
    searcher: OptunaSearcher,
    scheduler: TrialScheduler | None,
    config: StudyConfig,
    deadline: Deadline,
    shutdown: GracefulShutdown,
    progress: ConsoleProgress,
    on_step: Callable[[float], None] = lambda at: None,
) -> None:
    """Trains trials until there are no more or the time is over.

    Progress of trials is reported, that of their own epochs only where there are no bars of them.
    `on_step` gets the time, in seconds since 1970, of a process's first training step.

    A trial whose process dies is restarted from its checkpoint, at most `MAX_RETRIES` times.

    Raises:
        KeyboardInterrupt: the user asked to stop; running trials have stopped.
        DiskFull: the journal could not be written.
        StorageNotShared: a node has joined that does not see the storage.
    """
    scratch, say = config.folder / SCRATCH, progress.record
    deadline.start()
    stop_all = StopAll(shutdown)
    status_writer = StatusWriter(searcher, config.folder, progress.seconds_left)
    tuner = tune.Tuner(
        tune.with_resources(StudentTrainable, requested_resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            reuse_actors=True,
            time_budget_s=deadline.last_s,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(scratch),
            storage_filesystem=LocalFileSystem(),  # otherwise Ray parses the path as a URI
            verbose=0,
            stop=CombinedStopper(stop_all, deadline),
            callbacks=[
                WorkerFailureCallback(searcher, stop_all, say),
                TrialProgress(config.folder, say, progress.live is not None, on_step),
                NothingRuns(searcher, say),
                status_writer,
                JoinedNodes(config.storage),
                DrainingNodes(searcher, config.folder, say),
                TrialPrices(searcher, config.price_per_hour),
            ],
            failure_config=tune.FailureConfig(max_failures=MAX_RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        with nullcontext() if on_cluster() else trials_in_idle_workers():
            tuner.fit()
    except Exception as error:
        raise expected_cause(error) from error
    finally:
        with suppress(OSError):  # all state is in the journal
            delete(scratch)
            remove_driver_status(config.folder)
    add_device_time(searcher.study, status_writer.used_s, status_writer.offered_s)
    if shutdown.requested:
        raise KeyboardInterrupt
    searcher.close()


def requested_resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """The resources of a trial, which the searcher chose."""
    return tune.PlacementGroupFactory([config[RESOURCES]])


def expected_cause(error: BaseException) -> BaseException:
    """The error that Tune wraps, where it is an expected one; else the error itself."""
    cause: BaseException | None = error
    while cause is not None:
        if is_full_disk(cause) or isinstance(cause, StorageNotShared):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


class WorkerFailureCallback(DriverCallback):
    """Handles events that Tune does not report to a searcher: dead processes and lost trials.

    Tune ends a trial without notice where it was assigned to a process that cannot be reused, as
    after a SIGTERM or an unexpected error in the trial before. Such a trial is enqueued again, as
    often as that happens: each time such a process ends.
    """

    def __init__(
        self, searcher: OptunaSearcher, stop_all: StopAll, say: Callable[[str], None]
    ) -> None:
        self.searcher, self.stop_all, self.say = searcher, stop_all, say
        self.num_lost: Counter[str] = Counter()
        self.started = set[str]()
        """Ray's ids of the trials that have begun; others were only given to a process."""

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        self.stop_all.trials = trials
        running = {trial.trial_id for trial in trials if not trial.is_finished()}
        for trial_id in set(self.searcher.asked) - running:
            self._lost(trial_id)

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.started.add(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        name = self.searcher.name_of(trial.trial_id)
        self.say(f"trial {name} goes on from its checkpoint: {failure_reason(trial)}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.searcher.on_worker_lost(
            trial.trial_id, f"its process died too often: {failure_reason(trial)}"
        )

    def _lost(self, trial_id: str) -> None:
        name = self.searcher.name_of(trial_id)
        self.num_lost[name] += trial_id in self.started
        if self.num_lost[name] > MAX_RETRIES:
            self.searcher.on_worker_lost(
                trial_id, f"Ray Tune ended it {MAX_RETRIES + 1} times without notice"
            )
        else:
            self.say(f"trial {name} is asked again: Ray Tune ended it without notice")
            self.searcher.requeue(trial_id)


class TrialProgress(DriverCallback):
    """Reports the progress of trials and of the full-precision students that they start from."""

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None],
        has_bars: bool,
        on_step: Callable[[float], None] = lambda at: None,
    ) -> None:
        self.say, self.has_bars = say, has_bars
        self.files = ProgressFiles(folder / CHECKPOINTS, f"*/{PROGRESS_FILE}", on_step)
        deque(self.files.new_lines(), maxlen=0)  # what killed processes left

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        for path, line in self.files.new_lines():
            if not self.has_bars or not line.startswith(SHOWN_BY_BARS):
                self.say(f"trial {path.parent.name} is {line}")
