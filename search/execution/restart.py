"""Restarts the driver and resumes the study when Ray's own processes on this machine have died.

Ray itself would wait forever, or end the driver after a minute. A call into Ray that the driver is
waiting for cannot be interrupted, so the process executes a new program that resumes the study.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import psutil

from trainables.core import terminal

LOOK_EVERY_S = 0.5
GRACE_S = 1.0
"""Seconds after a process has died in which a signal to all processes may arrive here, too."""
RAY_RESTARTS, STOP = "PARETOSEG_RAY_DEATHS", "PARETOSEG_STOP"
"""Environment variables for the next program: the number of restarts, and whether to stop."""
BEGUN_AT = "PARETOSEG_BEGUN_AT"
"""Environment variable for the next program: when it began, in seconds since 1970."""
MAX_RESTARTS = 3


class Process(Protocol):
    """A process of Ray."""

    def kill(self) -> None: ...


class Node(Protocol):
    """Ray's processes on this machine."""

    def dead_processes(self) -> Sequence[tuple[str, Process]]: ...
    def live_processes(self) -> Sequence[tuple[str, Process]]: ...


def is_stop_requested() -> bool:
    """Whether this program was started to end a study that a signal had asked to stop.

    The request is never withdrawn: such a program does not start Ray, so it is not restarted.
    """
    return os.environ.get(STOP, "") != ""


def program_begin() -> float:
    """When this program began, in seconds since 1970; its process may be older."""
    return float(os.environ.get(BEGUN_AT) or psutil.Process().create_time())


class DriverRestart:
    """Watches the processes of a node until it is closed; `command` resumes the study.

    Where `stops` returns true, the new program only writes the study's report.
    """

    def __init__(
        self,
        node: Node,
        command: Sequence[str],
        stops: Callable[[], bool],
        replace: Callable[..., None] = os.execv,
    ) -> None:
        self.node, self.command, self.stops, self.replace = node, list(command), stops, replace
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="driver restart", daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Stops watching; must be called before Ray is shut down on purpose."""
        self.closed.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.closed.wait(LOOK_EVERY_S):
            if dead := [name for name, _ in self.node.dead_processes()]:
                self._restart(", ".join(dead))
                return

    def _restart(self, dead: str) -> None:
        restarts = 1 + int(os.environ.get(RAY_RESTARTS, "0"))
        for _, process in self.node.live_processes():
            process.kill()
        if self.closed.wait(GRACE_S) and self.stops():
            return
        if self.stops():  # the signal went to Ray, too: the remaining report needs no Ray
            os.environ[STOP] = "yes"
        elif restarts > MAX_RESTARTS:
            with suppress(OSError):  # the reader of stderr may be gone
                terminal.print_error(f"error: Ray must not die again and again, but {dead} did")
            os._exit(1)
        else:
            line = f"Ray is started again, its {dead} has died: the study is resumed"
            with suppress(OSError):
                terminal.print_line(line)
            os.environ[RAY_RESTARTS] = str(restarts)
        with suppress(OSError):
            terminal.release()
        os.environ[BEGUN_AT] = str(time.time())
        self.replace(self.command[0], self.command)
