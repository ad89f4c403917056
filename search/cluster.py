"""Ray, on this machine or on the cluster at RAY_ADDRESS."""

import logging
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.stopper import CombinedStopper, Stopper

from search.resources import Share, fixed_share, num_cores, num_parallel, on_cluster
from search.searcher import OptunaSearcher
from search.study_config import StudyConfig
from trainables.config import RunConfig
from trainables.trainable import StudentTrainable

Given = ParamSpec("Given")
Result = TypeVar("Result")
NEARLY_DONE = 0.8
"""Share of a training after which it goes on when the time is over."""
OVERTIME = 0.1
"""Of the time budget, for that."""


@contextmanager
def connect(config: StudyConfig) -> Iterator[None]:
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
    try:
        yield
    finally:
        ray.shutdown()


def run_remotely(
    config: StudyConfig,
    run: RunConfig,
    prepare: Callable[Concatenate[RunConfig, Given], Result],
    *given: Given.args,
    **named: Given.kwargs,
) -> Result:
    """`prepare(run, *given)` where trials run; on a CPU without a cluster, with all its cores."""
    cpus, gpus = fixed_share(config)
    if not gpus and not on_cluster():
        cpus = num_cores()
    task = ray.remote(num_cpus=cpus, num_gpus=gpus)(prepare)
    run = run.replace(num_threads=max(1, int(cpus)))
    try:
        result: Result = ray.get(task.remote(run, *given, **named))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
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
) -> None:
    """Trains trials until there are no more or the time is over.

    Raises:
        KeyboardInterrupt: the user asked to stop; running trials were ended.
    """
    scratch = config.folder / "ray"
    interruption = Interruption()
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
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        with first_signal(interruption):
            tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # the journal holds all that is worth keeping
    if interruption.wanted:
        raise KeyboardInterrupt
    searcher.close()


class Interruption(Stopper):
    """Ends all trials once it is wanted."""

    wanted = False

    def __call__(self, trial_id: str, result: dict[str, object]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.wanted


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
        return self.is_over and result["training_iteration"] < NEARLY_DONE * self.num_epochs

    def stop_all(self) -> bool:
        return False


@contextmanager
def first_signal(interruption: Interruption) -> Iterator[None]:
    """Turns the first Ctrl-C or SIGTERM into an orderly end; the second Ctrl-C is Python's own."""

    def handle(number: int, frame: FrameType | None) -> None:
        interruption.wanted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
