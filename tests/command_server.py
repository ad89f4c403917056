"""Commands of the project in processes that share their imports.

A command imports for longer than a small study takes. A server that has imported everything once
forks a process for each command.
"""

import atexit
import json
import os
import random
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from functools import cache
from importlib import import_module
from pathlib import Path
from select import select
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent
IMPORTED = (
    "mlflow.store.tracking.sqlalchemy_store",
    "search.study.search_loop",
)


class Command:
    """`python -m MODULE ARGUMENTS...` with further environment variables.

    Its output goes to files, so that it never waits for a reader.
    """

    def __init__(
        self,
        *argv: str,
        own_group: bool = False,
        cores: Collection[int] | None = None,
        **environment: str,
    ) -> None:
        self.argv = argv
        self.num_read = 0
        # open as long as this object is there
        self._files = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self._status, status = os.pipe()
        self.returncode: int | None = None
        request = {
            "argv": argv,
            "own_group": own_group,
            "cores": sorted(cores or os.sched_getaffinity(0)),
            "environment": {**os.environ, **environment},
            "folder": os.getcwd(),
        }
        files = [*(file.fileno() for file in self._files), status]
        socket.send_fds(start_server(), [json.dumps(request).encode()], files)
        os.close(status)
        self.pid = int(start_server().recv(64) or reject("server"))

    @property
    def said(self) -> str:
        """What it has written to stdout so far."""
        return self._read(0)

    @property
    def errors(self) -> str:
        """What it has written to stderr so far."""
        return self._read(1)

    def _read(self, index: int) -> str:
        fd = self._files[index].fileno()
        return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")

    def poll(self) -> int | None:
        return self._wait(0)

    def wait(self, seconds: float | None = None) -> int:
        """Its exit status, or the negative signal that ended it."""
        status = self._wait(seconds)
        if status is None:
            raise subprocess.TimeoutExpired(self.argv, seconds or 0, self.said, self.errors)
        return status

    def _wait(self, seconds: float | None) -> int | None:
        if self.returncode is None and select([self._status], [], [], seconds)[0]:
            self.returncode = int(os.read(self._status, 64) or reject("watcher"))
            os.close(self._status)
        return self.returncode

    def wait_for(self, words: str) -> None:
        """Until it says so in a line that no call before has read."""
        while True:
            ended = self.poll() is not None
            lines = self.said.split("\n")[:-1]
            while self.num_read < len(lines):
                self.num_read += 1
                if re.search(words, lines[self.num_read - 1]):
                    return
            assert not ended, f"it never said {words!r}: {self.said}{self.errors}"
            time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def finish(*argv: str, seconds: float = 500, **environment: str) -> Command:
    """A command that has ended."""
    command = Command(*argv, **environment)
    try:
        command.wait(seconds)
    finally:
        command.send_signal(signal.SIGKILL)  # nothing where it has ended
    return command


def run_afresh(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command that has ended, as a user starts it: it imports everything itself."""
    return subprocess.run(
        [sys.executable, "-m", *argv],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env={**os.environ, **environment},
    )


def reject(name: str) -> NoReturn:
    raise AssertionError(f"the {name} of a command has ended: see its error on stderr")


@cache
def start_server() -> socket.socket:
    """A connection to this process's server, which ends with this process."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    subprocess.Popen([sys.executable, __file__, str(there.fileno())], pass_fds=[there.fileno()])
    there.close()
    return here


def serve(connection: socket.socket) -> dict[str, Any] | None:
    """Forks a process for each request, in which it returns the request; None at the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watchers
    while True:
        message, files, _, _ = socket.recv_fds(connection, 1 << 18, 3)
        if not message:
            return None
        if os.fork() == 0:  # a watcher, which alone learns how the command ends
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            out, errors, status = files
            pid = os.fork()
            if pid == 0:
                os.dup2(out, 1)
                os.dup2(errors, 2)
                for file in (*files, connection.detach()):
                    os.close(file)
                return dict(json.loads(message))
            connection.send(str(pid).encode())
            ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.write(status, str(ended).encode())
            os._exit(0)
        for file in files:
            os.close(file)


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = str(ROOT)
    from search.execution.environment import prepare_environment

    prepare_environment()
    for name in IMPORTED:
        import_module(name)
    request = serve(connection)
    if request is None:
        return
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.sched_setaffinity(0, request["cores"])
    if request["own_group"]:
        os.setsid()
    if "RAY_ADDRESS" in os.environ:  # Ray was imported with the settings of this machine alone
        os.execv(sys.executable, [sys.executable, "-m", *request["argv"]])
    import numpy

    atexit.unregister(shutil.rmtree)  # of a folder that the server still needs
    random.seed()  # else all commands would have the same
    numpy.random.seed()
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [request["folder"], *filter(None, path)]
    module, *sys.argv[1:] = request["argv"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
