"""Starts Ray on this machine, in a thread: the driver imports PyTorch meanwhile."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Any

from search.execution.cluster_address import cluster_address, on_cluster
from search.execution.resources import num_cores
from search.execution.shutdown import INTERRUPTED
from trainables.core.command_line import first_line

NUM_STARTS, PAUSE_S = 3, 2.0
"""Attempts to start Ray, and seconds between the first two: a busy machine may time out."""
OTHER_VERSION = "Version mismatch"
"""What Ray's error begins with where a cluster runs another version of Ray or Python."""


class RayUnavailable(OSError):
    """Ray does not start on this machine, or the cluster does not answer."""


class RayStart:
    """The start of Ray in this process, of which there is at most one.

    No other thread may import a part of Ray before it is done. Its own thread lives as long as
    Ray: the kernel kills the processes whose parent thread is gone, as Ray asks it to.
    """

    now: "RayStart | None" = None

    def __init__(self) -> None:
        self.is_ending, self.ended = threading.Event(), threading.Event()
        self.outcome: Future[None] = Future()
        threading.Thread(target=self._start, name="Ray", daemon=True).start()

    @classmethod
    def begin(cls) -> "RayStart":
        """Begins to start Ray, unless that has begun, and does not wait for it."""
        cls.now = cls.now or RayStart()
        return cls.now

    def wait(self) -> None:
        """Returns when Ray has started, or did not start."""
        while not self.outcome.done():
            time.sleep(0.05)

    def _start(self) -> None:
        try:
            start_ray(self.is_ending.is_set)
            self.outcome.set_result(None)
        except BaseException as error:
            self.outcome.set_exception(error)
        self.ended.wait()


def await_ray(is_stopped: Callable[[], bool]) -> None:
    """Starts Ray on this machine, or waits until it has started.

    Raises:
        RayUnavailable: it does not start.
        KeyboardInterrupt: nor did the user want it any more.
    """
    start = RayStart.begin()
    while not start.outcome.done():
        time.sleep(0.05)
        if is_stopped():
            start.is_ending.set()
    start.outcome.result()


def end_ray() -> None:
    """Ends Ray, or the connection to a cluster; waits where it is just being started."""
    if start := RayStart.now:
        start.is_ending.set()
        start.wait()
    if "ray" in sys.modules:
        import ray

        ray.shutdown()
    if start:
        start.ended.set()
        RayStart.now = None


@contextmanager
def ending_ray() -> Iterator[None]:
    """Ends Ray after the block, where it has started; SIGTERM is as Ctrl-C inside."""
    before = obey_sigterm()
    try:
        yield
    finally:
        try:
            signal.signal(signal.SIGTERM, before)
            end_ray()
        except KeyboardInterrupt:  # Ray does not answer
            os._exit(INTERRUPTED)


def obey_sigterm() -> Any:
    """Has SIGTERM interrupt this process as Ctrl-C does; gives the handler before."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    return signal.signal(signal.SIGTERM, interrupt)


def start_ray(is_stopped: Callable[[], bool]) -> None:
    """Starts Ray, or connects to the cluster; tries again where Ray times out.

    Raises:
        KeyboardInterrupt: Ray failed, and the user asked to stop.
    """
    import ray

    from search.execution.ray_internals import processes_in_own_group

    logging.getLogger("ray").setLevel(logging.CRITICAL)
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
            if is_stopped():
                raise KeyboardInterrupt from None
            if str(error).startswith(OTHER_VERSION):
                raise RayUnavailable(
                    f"the driver must have Ray and Python as the cluster at {cluster_address()} "
                    f"has them: {' '.join(str(error).split())}"
                ) from error
            reason, last = first_line(error), attempt == NUM_STARTS
        if not last:
            time.sleep(attempt * PAUSE_S)
    place = "on this machine" if local else f"from the cluster at {cluster_address()}"
    raise RayUnavailable(
        f"Ray must answer {place}, but it did not in {NUM_STARTS} attempts: {reason}"
    )
