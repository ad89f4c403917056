"""Connects to Ray, on this machine or on the cluster at RAY_ADDRESS, and runs tasks there."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import ray

from search.core.config import Placement
from search.execution.cluster import offered_nodes, why_nothing_runs
from search.execution.cluster_address import CLUSTER_ADDRESS, cluster_address, on_cluster
from search.execution.ray_internals import (
    find_cluster_address,
    local_node,
    why_not_admitted,
)
from search.execution.ray_start import RayUnavailable, await_ray, end_ray, obey_sigterm, start_ray
from search.execution.resources import (
    TrialResources,
    fixed_resources,
)
from search.execution.restart import DriverRestart
from search.execution.shared_storage import shared_storage
from search.execution.shutdown import GracefulShutdown
from search.execution.tuning import MAX_RETRIES
from search.execution.utilization import device_name
from search.execution.waiting import WaitingNotice
from search.execution.worker_failure import describe_worker_failure
from trainables.config import ExecutionConfig
from trainables.core import terminal
from trainables.core.errors import Interrupted, TrialFailed
from trainables.core.mirror import delete
from trainables.core.progress import (
    PROGRESS_EVERY_S,
    PROGRESS_FILE,
    ProgressFiles,
    with_progress_file,
)

Given = ParamSpec("Given")
Result = TypeVar("Result")
ANSWER_S = 60.0
"""Seconds that a cluster may take to answer; a port of another program never does."""


def join_cluster() -> None:
    """Connects to the cluster, unless it refuses this process.

    Raises:
        RayUnavailable: it does.
    """
    address = cluster_address()
    with exit_if_silent():
        found = find_cluster_address() if address == "auto" else address
        if reason := interruptibly(lambda: why_not_admitted(found)):
            raise RayUnavailable(f"{CLUSTER_ADDRESS} leads to the cluster at {found}, but {reason}")
        start_ray(lambda: False)
    obey_sigterm()  # Ray has put a handler of its own in place


def interruptibly(ask: Callable[[], Result]) -> Result:
    """The result of a call into Ray that Ctrl-C may end, although Ray does not react to it.

    Raises:
        KeyboardInterrupt: the user asked to stop.
    """
    outcome: Future[Result] = Future()

    def work() -> None:
        try:
            outcome.set_result(ask())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=work, name="a call into Ray", daemon=True).start()
    while not outcome.done():
        time.sleep(0.1)
    return outcome.result()


@contextmanager
def connect(resume_arguments: Sequence[str], shutdown: GracefulShutdown) -> Iterator[None]:
    """Starts Ray, unless a cluster has been joined, and ends it after the block.

    `resume_arguments` are those of Python that go on with what runs, after Ray has died.

    Raises:
        RayUnavailable: it does not start here, or no cluster answers.
        KeyboardInterrupt: the user asked to stop while it started.
    """
    driver_restart = None
    try:
        if not on_cluster():  # which has been joined
            await_ray(lambda: shutdown.requested)
        shutdown.install_handlers()
        if shutdown.requested:
            raise KeyboardInterrupt
        if not on_cluster():
            command = [sys.executable, *resume_arguments]
            driver_restart = DriverRestart(local_node(), command, lambda: shutdown.requested)
        yield
    finally:
        if driver_restart:
            driver_restart.close()
        end_ray()


@contextmanager
def exit_if_silent() -> Iterator[None]:
    """Ends the process where a cluster does not answer in time: Ray waits for many minutes."""

    def end() -> None:
        try:
            terminal.print_error(
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


class RemoteRunner:
    """Runs a preparation on a worker of Ray; on a CPU, with all cores of a node."""

    def __init__(
        self,
        config: Placement,
        shutdown: GracefulShutdown,
        say: Callable[[str], None],
        progress_every_s: float = PROGRESS_EVERY_S,
        on_step: Callable[[float], None] = lambda at: None,
    ) -> None:
        """`say` gets a line on the progress of a preparation every `progress_every_s` seconds.

        `on_step` gets the time, in seconds since 1970, of the first training step of each.
        """
        self.shutdown, self.say, self.progress_every_s = shutdown, say, progress_every_s
        self.on_step = on_step
        self.folder = config.folder
        self.shared = shared_storage(config.storage)
        self.config, nodes = config, offered_nodes()
        self.share = fixed_resources(config, nodes)
        if not self.share.gpus:
            self.share = self.share._replace(cpus=nodes.whole_node)

    def on(self, kind: str) -> Self:
        """A runner on GPUs of one kind."""
        other, nodes = copy(self), offered_nodes().of_kind(kind)
        other.share = fixed_resources(self.config, nodes)._replace(accelerator=kind)
        return other

    def start(
        self,
        run: ExecutionConfig,
        prepare: Callable[Concatenate[ExecutionConfig, Given], Result],
        /,
        *given: Given.args,
        **named: Given.kwargs,
    ) -> Any:
        """Starts a preparation that nobody waits for, and gives Ray's reference to its result."""
        run = run.replace(num_threads=self.share.threads)
        return task_with(self.share, prepare).remote(run, *given, **named)

    def __call__(
        self,
        run: ExecutionConfig,
        prepare: Callable[Concatenate[ExecutionConfig, Given], Result],
        /,
        *given: Given.args,
        **named: Given.kwargs,
    ) -> Result:
        """Gives `prepare(run, *given, **named)`, which Ray retries where its process dies.

        Raises:
            KeyboardInterrupt: the user asked to stop, and the preparation stopped or timed out.
            TrialFailed: its process died at every attempt.
            StorageNotShared: a node has joined that does not see the storage.
        """
        (result,) = self.each(run, partial(prepare, **named), [given])
        return result

    @property
    def hardware(self) -> str:
        """What preparations run on, as far as the driver knows it."""
        kinds = sorted({str(each) for each in offered_nodes().types})
        here = [] if on_cluster() else [device_name("cuda" if self.share.gpus else "cpu")]
        return ", ".join([*kinds, *here])

    @property
    def num_parallel(self) -> int:
        """The preparations that run at once on the nodes there are."""
        return max(1, offered_nodes().num_running(self.share))

    def each(
        self,
        run: ExecutionConfig,
        prepare: Callable[..., Result],
        calls: Sequence[tuple[Any, ...]],
    ) -> list[Result]:
        """Gives `prepare(run, *given)` of all that is given, in its order; they run at once.

        The progress of the first stands for that of all.

        Raises: as `__call__`.
        """
        run = run.replace(num_threads=self.share.threads)
        progress = ProgressFiles(self.folder, f"{PROGRESS_FILE}*", self.on_step)
        files = [self.folder / PROGRESS_FILE]
        files += [self.folder / f"{PROGRESS_FILE}-{number}" for number in range(1, len(calls))]
        notice = WaitingNotice(self.say, lambda: why_nothing_runs(self.share))
        task = task_with(self.share, with_progress_file)
        waiting = []
        for file, given in zip(files, calls, strict=True):
            delete(file)  # of a process that was killed
            waiting.append(task.remote(file, self.progress_every_s, prepare, run, *given))
        while len(ray.wait(waiting, num_returns=len(waiting), timeout=0.2)[1]):
            for path, line in progress.new_lines():
                if path == files[0]:
                    self.say(line)
            if progress.is_alive:
                notice.restart()
            else:
                notice.look()
            self.shared.look()
            if self.shutdown.grace_expired:
                raise KeyboardInterrupt
        results = [self._result(task) for task in waiting]
        if self.shutdown.requested:
            raise KeyboardInterrupt
        return results

    def _result(self, task: Any) -> Any:
        try:
            return ray.get(task)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Interrupted):
                raise KeyboardInterrupt from None
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise TrialFailed(f"its process died: {describe_worker_failure(error)}") from error


def task_with(share: TrialResources, function: Callable[..., Any]) -> Any:
    """A task of Ray with these resources, which is retried where its process dies.

    The process does not keep a GPU's memory when the task has ended.
    """
    decorate = ray.remote(max_calls=1) if share.gpus else ray.remote
    task: Any = decorate(function)
    return task.options(
        num_cpus=share.cpus,
        num_gpus=share.gpus,
        resources=share.kind,
        max_retries=MAX_RETRIES,
    )
