"""Ray, on this machine or on the cluster at RAY_ADDRESS."""

import logging
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.stopper import CombinedStopper, Stopper

from search.litter import SCRATCH
from search.resources import Share, fixed_share, num_cores, num_parallel, on_cluster
from search.revival import Revival
from search.searcher import OptunaSearcher
from search.study_config import StudyConfig
from trainables.config import RunConfig
from trainables.errors import Interrupted, TrialFailed
from trainables.files import is_full_disk
from trainables.trainable import EPOCH, StudentTrainable

Given = ParamSpec("Given")
Result = TypeVar("Result")
MAX_RETRIES = 3
"""Times that a trial is started again because its process died."""
PATIENCE_S = 7.0
"""For trainings to leave: a node that is taken away gives 30 s, of which the report needs some."""
TELLING = ("exit detail", "out of memory", "OOM", "node", "Error")
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = b"\x1b[?25h"
NEARLY_DONE = 0.8
"""Share of a training after which it goes on when the time is over."""
OVERTIME = 0.1
"""Of the time budget, for that."""


@contextmanager
def connect(config: StudyConfig, interruption: "Interruption") -> Iterator[None]:
    """Ray for as long as the block lasts."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    local = not on_cluster()
    ray.init(
        "local" if local else None,
        num_cpus=num_cores() if local else None,
        include_dashboard=False if local else None,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
    )
    node: Any = ray._private.worker._global_node
    command = [sys.executable, *config.resume_arguments]
    revival = Revival(node, command, lambda: interruption.wanted) if local else None
    try:
        yield
    finally:
        if revival:
            revival.close()
        ray.shutdown()


class Remote:
    """Runs a preparation where trials run; on a CPU without a cluster, with all its cores."""

    def __init__(self, config: StudyConfig, interruption: "Interruption") -> None:
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
    interruption: "Interruption",
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
            verbose=0,
            stop=CombinedStopper(interruption, deadline),
            callbacks=[Deaths(searcher, interruption, say)],
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


class Deaths(tune.Callback):
    """Says when a trial's process has died, and ends the trial when that was once too often.

    Lets the interruption know of the trials whose processes it may have to end.
    """

    def __init__(
        self, searcher: OptunaSearcher, interruption: "Interruption", say: Callable[[str], None]
    ) -> None:
        self.searcher, self.interruption, self.say = searcher, interruption, say

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        self.interruption.trials = trials

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        name = self.searcher.name_of(trial.trial_id)
        self.say(f"trial {name} goes on from its checkpoint: {cause_of(trial)}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.searcher.bury(trial.trial_id, f"its process died too often: {cause_of(trial)}")

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


class Interruption(Stopper):
    """Asks trainings to leave once it is `wanted`; then ends those that have not.

    A file is what asks them, since they may run on other machines.
    """

    def __init__(self, stop_file: Path) -> None:
        self.stop_file = stop_file
        self.since: float | None = None
        self.trials: Sequence[Any] = ()
        """Ray's."""

    @property
    def wanted(self) -> bool:
        """Whether the study is to end."""
        return self.since is not None

    @property
    def is_over(self) -> bool:
        """Whether trainings have had the time to leave."""
        return self.since is not None and time.monotonic() - self.since > PATIENCE_S

    def listen(self) -> None:
        """Takes the signals, also from Ray, which takes them when it starts."""
        for number in SIGNALS:
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            os.write(sys.stdout.fileno(), SHOW_CURSOR if sys.stdout.isatty() else b"")
            os._exit(130)
        self.since = time.monotonic()
        with suppress(OSError):  # a full disk: then the patience ends it
            self.stop_file.touch()

    def __call__(self, trial_id: str, result: dict[str, object]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.is_over:  # Ray would wait for them for another 10 s
            for trial in self.trials:
                if actor := trial.temporary_state.ray_actor:
                    ray.kill(actor)
        return self.is_over


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


@contextmanager
def interruptible(stop_file: Path) -> Iterator[Interruption]:
    """Turns the first Ctrl-C or SIGTERM into an orderly end; with the second the process goes."""
    interruption = Interruption(stop_file)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    interruption.listen()
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop_file.unlink(missing_ok=True)
