"""Ray, on this machine or on the cluster at RAY_ADDRESS."""

import logging
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Concatenate, ParamSpec, TypeVar

import ray
from ray import tune
from ray.tune import Stopper

from search.resources import Share, fixed_share, num_cores, on_cluster
from search.searcher import OptunaSearcher
from search.study_config import StudyConfig
from trainables.config import RunConfig
from trainables.trainable import StudentTrainable

Given = ParamSpec("Given")
Result = TypeVar("Result")


@contextmanager
def connect(config: StudyConfig) -> Iterator[dict[str, float]]:
    """Ray for as long as the block lasts; gives the resources there are now."""
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
        yield ray.cluster_resources()  # type: ignore[no-untyped-call]
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


def tune_trials(
    searcher: OptunaSearcher, config: StudyConfig, share: Share, num_parallel: int
) -> None:
    """Trains trials, `num_parallel` at once, until there are no more or the time is over.

    Raises:
        KeyboardInterrupt: the user asked to stop; running trials were ended.
    """
    scratch = config.folder / "ray"
    interruption = Interruption()
    resources = {"cpu": share.cpus, "gpu": share.gpus}
    tuner = tune.Tuner(
        tune.with_resources(StudentTrainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            max_concurrent_trials=num_parallel,
            reuse_actors=True,
            time_budget_s=config.time_budget_s,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(scratch),
            verbose=0,
            stop=interruption,
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
