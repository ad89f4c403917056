"""Ray, on this machine or on the cluster at RAY_ADDRESS."""

import logging
import math
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from pyarrow.fs import LocalFileSystem
from ray import tune
from ray._private import services
from ray.tune.schedulers import TrialScheduler
from ray.tune.stopper import CombinedStopper, NoopStopper, Stopper

from search.cluster_address import CLUSTER_ADDRESS, cluster_address, on_cluster
from search.interruption import Interruption
from search.litter import SCRATCH
from search.resources import Share, fixed_share, num_cores, num_parallel
from search.revival import Revival
from search.searcher import OptunaSearcher
from search.study_config import StudyConfig
from trainables import terminal
from trainables.command_line import first_line
from trainables.config import RunConfig
from trainables.errors import Interrupted, TrialFailed
from trainables.files import is_full_disk
from trainables.trainable import EPOCH, StudentTrainable

Given = ParamSpec("Given")
Result = TypeVar("Result")
ANSWER_S = 60.0
"""For a cluster to answer; a port where something else listens never does."""
NUM_STARTS, PAUSE_S = 3, 2.0
"""Attempts to start Ray, and seconds between the first two: on a busy machine it is often late."""
MAX_RETRIES = 3
"""Times that a trial is started again because its process died."""
TELLING = ("exit detail", "out of memory", "OOM", "node", "Error")
NEARLY_DONE = 0.8
"""Share of a training after which it goes on when the time is over."""
OVERTIME = 0.1
"""Of the time budget, for that."""


@contextmanager
def connect(config: StudyConfig, interruption: Interruption) -> Iterator[None]:
    """Ray for as long as the block lasts.

    Raises:
        RayUnavailable: it does not start here, or no cluster answers.
        KeyboardInterrupt: the user asked to stop while it started.
    """
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    revival = None
    try:
        with patient() if on_cluster() else nullcontext():
            start_ray(interruption)
        interruption.listen()
        if interruption.wanted:
            raise KeyboardInterrupt
        if not on_cluster():
            node: Any = ray._private.worker._global_node
            command = [sys.executable, *config.resume_arguments]
            revival = Revival(node, command, lambda: interruption.wanted)
        yield
    finally:
        if revival:
            revival.close()
        ray.shutdown()


@contextmanager
def patient() -> Iterator[None]:
    """Ends the process where a cluster takes longer to answer: Ray waits for many minutes."""

    def end() -> None:
        try:
            terminal.complain(
                f"error: {CLUSTER_ADDRESS} must be the address of a cluster's head, but nothing "
                f"that Ray understands came from {cluster_address()} in {ANSWER_S:g} s"
            )
        finally:
            os._exit(2)

    timer = threading.Timer(ANSWER_S, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class RayUnavailable(OSError):
    """Ray does not start on this machine, or the cluster does not answer."""


def start_ray(interruption: Interruption) -> None:
    """Starts Ray, or connects to the cluster; once more where that takes Ray too long."""
    local = not on_cluster()
    for attempt in range(1, NUM_STARTS + 1):
        try:
            with processes_in_own_group():
                ray.init(
                    "local" if local else None,
                    num_cpus=num_cores() if local else None,
                    include_dashboard=False if local else None,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                )
            return
        except (Exception, SystemExit) as error:  # it runs a dozen processes, each may be late
            ray.shutdown()
            if interruption.wanted:
                raise KeyboardInterrupt from None
            reason, last = first_line(error), attempt == NUM_STARTS
        if not last:
            time.sleep(attempt * PAUSE_S)
    place = "on this machine" if local else f"from the cluster at {cluster_address()}"
    raise RayUnavailable(
        f"Ray must answer {place}, but it did not in {NUM_STARTS} attempts: {reason}"
    )


@contextmanager
def processes_in_own_group() -> Iterator[None]:
    """Lets Ray start its processes outside the driver's process group.

    A signal to that group, as `timeout` and terminals send it, then reaches the driver alone, which
    ends the others in good order. Ray has no setting for it.
    """
    module: Any = services
    popen = module.ConsolePopen
    module.ConsolePopen = partial(popen, process_group=0)
    try:
        yield
    finally:
        module.ConsolePopen = popen


class Remote:
    """Runs a preparation where trials run; on a CPU without a cluster, with all its cores."""

    def __init__(self, config: StudyConfig, interruption: Interruption) -> None:
        self.interruption = interruption
        self.cpus, self.gpus = fixed_share(config)
        if not self.gpus and not on_cluster():
            self.cpus = num_cores()

    def __call__(
        self,
        run: RunConfig,
        prepare: Callable[Concatenate[RunConfig, Given], Result],
        *given: Given.args,
        **named: Given.kwargs,
    ) -> Result:
        """`prepare(run, *given)`, started again by Ray where its process dies.

        Raises:
            KeyboardInterrupt: the user asked to stop, and it did or took too long.
            TrialFailed: its process died again and again.
        """
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=MAX_RETRIES)(prepare)
        run = run.replace(num_threads=max(1, int(self.cpus)))
        waiting = task.remote(run, *given, **named)
        while not ray.wait([waiting], timeout=0.2)[0]:
            if self.interruption.is_over:
                raise KeyboardInterrupt
        try:
            result: Result = ray.get(waiting)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Interrupted):
                raise KeyboardInterrupt from None
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise TrialFailed(f"its process died: {telling_line(error)}") from error
        if self.interruption.wanted:
            raise KeyboardInterrupt
        return result


def capacity(share: Share) -> int:
    """Trials that may be on their way at once now: as many as run, on a cluster some that wait."""
    return num_parallel(share, ray.cluster_resources())  # type: ignore[no-untyped-call]


def tune_trials(
    searcher: OptunaSearcher,
    scheduler: TrialScheduler | None,
    config: StudyConfig,
    share: Share,
    deadline: "Deadline",
    interruption: Interruption,
    say: Callable[[str], None],
) -> None:
    """Trains trials until there are no more or the time is over.

    A trial whose process dies is started again, at most `MAX_RETRIES` times, and goes on from its
    checkpoint.

    Raises:
        KeyboardInterrupt: the user asked to stop; running trials have left.
        DiskFull: the journal could not be written.
    """
    scratch = config.folder / SCRATCH
    deadline.start()
    stop_all = StopAll(interruption)
    resources = {"cpu": share.cpus, "gpu": share.gpus}
    tuner = tune.Tuner(
        tune.with_resources(StudentTrainable, resources),
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
            storage_filesystem=LocalFileSystem(),  # else the path is taken for part of an address
            verbose=0,
            stop=CombinedStopper(stop_all, deadline),
            callbacks=[Watch(searcher, stop_all, say)],
            failure_config=tune.FailureConfig(max_failures=MAX_RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    except Exception as error:
        raise expected_cause(error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # the journal holds all that is worth keeping
    if interruption.wanted:
        raise KeyboardInterrupt
    searcher.close()


def expected_cause(error: BaseException) -> BaseException:
    """What Tune wraps, where that is an error that we expect; else the error itself."""
    cause: BaseException | None = error
    while cause is not None:
        if is_full_disk(cause):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


class Watch(tune.Callback):
    """Sees what Tune does not tell a searcher: processes that died, and trials that are lost.

    Tune ends a trial without a word where the process that it was given to is not to be used again,
    as after a SIGTERM or an unforeseen error in the trial before. Such a trial is asked again.
    """

    def __init__(
        self, searcher: OptunaSearcher, stop_all: "StopAll", say: Callable[[str], None]
    ) -> None:
        self.searcher, self.stop_all, self.say = searcher, stop_all, say
        self.num_lost: Counter[str] = Counter()

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        self.stop_all.trials = trials
        running = {trial.trial_id for trial in trials if not trial.is_finished()}
        for trial_id in set(self.searcher.asked) - running:
            self._lost(trial_id)

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        name = self.searcher.name_of(trial.trial_id)
        self.say(f"trial {name} goes on from its checkpoint: {cause_of(trial)}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.searcher.bury(trial.trial_id, f"its process died too often: {cause_of(trial)}")

    def _lost(self, trial_id: str) -> None:
        name = self.searcher.name_of(trial_id)
        self.num_lost[name] += 1
        if self.num_lost[name] > MAX_RETRIES:
            self.searcher.bury(
                trial_id, f"Ray Tune ended it {MAX_RETRIES + 1} times without a word"
            )
        else:
            self.say(f"trial {name} is asked again: Ray Tune ended it without a word")
            self.searcher.requeue(trial_id)

    # Ray's snapshots have nothing to keep
    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        return tune.Callback, ()


def cause_of(trial: Any) -> str:
    """In a line, what Ray says of the last death of a trial's process."""
    try:
        return telling_line(Path(trial.error_file).read_text().split("Failure #")[-1])
    except OSError:
        return "killed, out of memory, or lost with its node"


def telling_line(error: object) -> str:
    """What matters in Ray's account of a death, whose first lines name actors and addresses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line for word in TELLING)]
    return (telling or lines or [type(error).__name__])[0]


class StopAll(Stopper):
    """Ends the trainings that have not left although they were asked to."""

    def __init__(self, interruption: Interruption) -> None:
        self.interruption = interruption
        self.trials: Sequence[Any] = ()
        """Ray's."""

    def __call__(self, trial_id: str, result: dict[str, object]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.interruption.is_over:  # Ray would wait for them for another 10 s
            for trial in self.trials:
                if actor := trial.temporary_state.ray_actor:
                    ray.kill(actor)
        return self.interruption.is_over

    # Ray's snapshots have nothing to keep
    def __reduce__(self) -> tuple[type[Stopper], tuple[()]]:
        return NoopStopper, ()


class Deadline(Stopper):
    """The end of the time budget: nothing is asked any more, and only what is nearly done goes on.

    A trial that reports after it is stopped unless it has little left; all are after a tenth more.
    """

    def __init__(self, budget_s: float | None, num_epochs: int) -> None:
        self.budget_s, self.num_epochs = budget_s, num_epochs
        self.begin = time.monotonic()

    def start(self) -> None:
        """The time begins to count."""
        self.begin = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.budget_s is not None and time.monotonic() - self.begin >= self.budget_s

    @property
    def last_s(self) -> float | None:
        """Seconds after which even what is nearly done is stopped."""
        return None if self.budget_s is None else (1 + OVERTIME) * self.budget_s

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.is_over and result.get(EPOCH, math.inf) < NEARLY_DONE * self.num_epochs

    def stop_all(self) -> bool:
        return False
