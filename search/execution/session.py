"""Connects to Ray, on this machine or on the cluster at RAY_ADDRESS, and runs tasks there."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray

from search.core.config import Placement
from search.execution.cluster_address import CLUSTER_ADDRESS, cluster_address, on_cluster
from search.execution.ray_internals import local_node, processes_in_own_group
from search.execution.resources import TrialResources, fixed_resources, num_cores, num_parallel
from search.execution.restart import DriverRestart
from search.execution.shutdown import GracefulShutdown
from search.execution.tuning import MAX_RETRIES
from search.execution.worker_failure import describe_worker_failure
from trainables.config import ExecutionConfig
from trainables.core import terminal
from trainables.core.command_line import first_line
from trainables.core.errors import Interrupted, TrialFailed
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
NUM_STARTS, PAUSE_S = 3, 2.0
"""Attempts to start Ray, and seconds between the first two: a busy machine may time out."""


@contextmanager
def connect(resume_arguments: Sequence[str], shutdown: GracefulShutdown) -> Iterator[None]:
    """Connects to Ray for the duration of the block.

    `resume_arguments` are those of Python that go on with what runs, after Ray has died.

    Raises:
        RayUnavailable: it does not start here, or no cluster answers.
        KeyboardInterrupt: the user asked to stop while it started.
    """
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    driver_restart = None
    try:
        with exit_if_silent() if on_cluster() else nullcontext():
            start_ray(shutdown)
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
        ray.shutdown()


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


class RayUnavailable(OSError):
    """Ray does not start on this machine, or the cluster does not answer."""


def start_ray(shutdown: GracefulShutdown) -> None:
    """Starts Ray, or connects to the cluster; tries again where Ray times out."""
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
        except (Exception, SystemExit) as error:  # each of Ray's processes may time out
            ray.shutdown()
            if shutdown.requested:
                raise KeyboardInterrupt from None
            reason, last = first_line(error), attempt == NUM_STARTS
        if not last:
            time.sleep(attempt * PAUSE_S)
    place = "on this machine" if local else f"from the cluster at {cluster_address()}"
    raise RayUnavailable(
        f"Ray must answer {place}, but it did not in {NUM_STARTS} attempts: {reason}"
    )


class RemoteRunner:
    """Runs a preparation on a worker of Ray; on a CPU without a cluster, with all cores."""

    def __init__(
        self,
        config: Placement,
        shutdown: GracefulShutdown,
        say: Callable[[str], None],
        progress_every_s: float = PROGRESS_EVERY_S,
    ) -> None:
        """`say` gets a line on the progress of a preparation every `progress_every_s` seconds."""
        self.shutdown, self.say, self.progress_every_s = shutdown, say, progress_every_s
        self.folder = config.folder
        self.cpus, self.gpus = fixed_resources(config)
        if not self.gpus and not on_cluster():
            self.cpus = num_cores()

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
        """
        task: Any = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=MAX_RETRIES)(
            with_progress_file
        )
        run = run.replace(num_threads=max(1, int(self.cpus)))
        progress = ProgressFiles(self.folder)
        file = self.folder / PROGRESS_FILE
        waiting = task.remote(file, self.progress_every_s, prepare, run, *given, **named)
        while not ray.wait([waiting], timeout=0.2)[0]:
            for _, line in progress.new_lines():
                self.say(line)
            if self.shutdown.grace_expired:
                raise KeyboardInterrupt
        try:
            result: Result = ray.get(waiting)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Interrupted):
                raise KeyboardInterrupt from None
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise TrialFailed(f"its process died: {describe_worker_failure(error)}") from error
        if self.shutdown.requested:
            raise KeyboardInterrupt
        return result


def max_pending_trials(share: TrialResources) -> int:
    """The maximum number of running trials now; on a cluster, including some pending ones."""
    return num_parallel(share, ray.cluster_resources())  # type: ignore[no-untyped-call]
