"""Trains configurations on Ray, as many at once as there are resources."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray

from search.execution.cluster import why_nothing_runs
from search.execution.places import TrialPlaces
from search.execution.resources import TrialResources
from search.execution.session import task_with
from search.execution.shared_storage import shared_storage
from search.execution.shutdown import GracefulShutdown
from search.execution.waiting import WaitingNotice
from search.execution.worker_failure import describe_worker_failure
from search.storage.layout import SCRATCH
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.errors import Interrupted, TrialFailed
from trainables.core.files import is_full_disk
from trainables.core.mirror import delete
from trainables.core.progress import (
    PROGRESS_EVERY_S,
    PROGRESS_FILE,
    ProgressFiles,
    with_progress_file,
)

logger = logging.getLogger(__name__)
Outcome = TypeVar("Outcome")
OnEnd = Callable[[str, Outcome | TrialFailed], None]
"""Called with the name of a training that has ended, and what it came to."""


class ParallelTraining(Generic[Outcome]):
    """Trains each of many configurations once, or finds what is left of an earlier training.

    A training whose process dies is started again, as `task_with` says, and continues from its
    checkpoint.

    Args:
        train: what is called on a worker with a configuration, the run and a `description`, as
            `train_or_find`; it may raise TrialFailed.
        run: how trainings are run, which is the same for all of them.
        places: the resources of each training.
        folder: gets a file with the progress of each running training.
        say: gets a line on the progress of each training every half minute.
        on_step: gets the time, in seconds since 1970, of a process's first training step.
    """

    def __init__(
        self,
        train: Callable[..., Outcome],
        run: ExecutionConfig,
        places: TrialPlaces,
        shutdown: GracefulShutdown,
        folder: Path,
        say: Callable[[str], None],
        on_step: Callable[[float], None] = lambda at: None,
    ) -> None:
        self.train, self.run, self.places, self.shutdown = train, run, places, shutdown
        self.say, self.on_step = say, on_step
        self.scratch, self.shared = folder / SCRATCH, shared_storage(folder.parent)

    def __call__(
        self,
        trainings: Mapping[str, TrialConfig],
        on_end: OnEnd[Outcome],
        may_start: Callable[[str], bool] = lambda name: True,
    ) -> None:
        """Trains the configurations, which have names, in their order, those that may start.

        Raises:
            DiskFull: a disk is full.
            StorageNotShared: a node has joined that does not see the storage.
            KeyboardInterrupt: the user asked to stop; running trainings have written checkpoints.
        """
        left, running, taken = list(trainings), dict[Any, str](), dict[str, TrialResources]()
        progress = ProgressFiles(self.scratch, f"*/{PROGRESS_FILE}", self.on_step)
        notice = WaitingNotice(self.say, lambda: why_nothing_runs(next(iter(taken.values()))))
        try:
            while left or running:
                while left and (place := self.places.next(Counter(taken.values()))):
                    if may_start(name := left.pop(0)):
                        running[self._start(name, trainings[name], place)] = name
                        taken[name] = place
                ended, _ = ray.wait(list(running), timeout=0.2)
                for task in ended:
                    del taken[name := running.pop(task)]
                    self._end(task, name, on_end)
                for _, line in progress.new_lines():
                    self.say(line)
                self.shared.look()
                if not running or progress.is_alive:
                    notice.restart()
                else:
                    notice.look()
                if self.shutdown.requested:
                    left.clear()
                if self.shutdown.grace_expired:
                    break
        finally:
            with suppress(OSError):
                delete(self.scratch)
        if self.shutdown.requested:
            raise KeyboardInterrupt

    def _start(self, name: str, config: TrialConfig, place: TrialResources) -> Any:
        return task_with(place, with_progress_file).remote(
            self.scratch / config.digest() / PROGRESS_FILE,
            PROGRESS_EVERY_S,
            self.train,
            config,
            place.given_to(self.run),
            description=f"training {name}",
        )

    def _end(self, task: Any, name: str, on_end: OnEnd[Outcome]) -> None:
        try:
            on_end(name, ray.get(task))
        except ray.exceptions.RayTaskError as error:
            if is_full_disk(error.cause):
                raise error.cause from None
            if isinstance(error.cause, TrialFailed):
                on_end(name, error.cause)
            elif not isinstance(error.cause, Interrupted):  # by the stop file
                logger.error("%s: %s", name, error)
                on_end(name, TrialFailed(describe_worker_failure(error)))
        except ray.exceptions.RayError as error:
            on_end(name, TrialFailed(f"its process died: {describe_worker_failure(error)}"))
