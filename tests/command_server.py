"""Commands of the project in processes that share their imports (see fork_server.py)."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from functools import cache
from pathlib import Path
from select import select

HERE = Path(__file__).parent


class ForkServer:
    """A process that forks others, and ends with this one.

    Attributes:
        socket: where it takes requests.
        python: an executable that stands for Python, and has the server run programs of Ray.
        environment: variables for all processes that may start such programs.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.socket, self.python = (Path(self._folder.name) / name for name in ("server", "python"))
        program = [sys.executable, "-IS", str(HERE / "forked_python.py")]
        command = shlex.join([*program, sys.executable, str(self.python)])
        self.python.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        self.python.chmod(0o700)
        self.environment = {
            "FORK_SERVER": str(self.socket),
            # else Ray's agents look whether their parent, which a fork has not, is there
            "RAY_enable_pipe_based_agent_to_parent_health_check": "1",
        }
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
            server.bind(str(self.socket))
            server.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "fork_server.py"), str(server.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[server.fileno()],
                start_new_session=True,  # else Ctrl-C ends it before the commands it looks after
                env={**os.environ, "OMP_WAIT_POLICY": "passive"},  # fixed when PyTorch is imported
            )


@cache
def start_server() -> ForkServer:
    """This process's server."""
    return ForkServer()


class Command:
    """`python -m MODULE ARGUMENTS...` with further environment variables.

    Its output goes to files, so that it never waits for a reader. It ends with this object.
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
        self.returncode: int | None = None
        server = start_server()
        request = {
            "argv": ("-m", *argv),
            "python": str(server.python),
            "own_group": own_group,
            "cores": sorted(cores or os.sched_getaffinity(0)),
            "blocked": [],
            "environment": {**os.environ, **environment, **server.environment},
            "folder": os.getcwd(),
        }
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(str(server.socket))
        files = [0, *(file.fileno() for file in self._files)]
        socket.send_fds(self._connection, [json.dumps(request).encode()], files)
        self.pid = self._receive()

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
        if self.returncode is None and select([self._connection], [], [], seconds)[0]:
            self.returncode = self._receive()
            self._connection.close()
        return self.returncode

    def _receive(self) -> int:
        answer = self._connection.recv(64)
        assert answer, "the fork server or its watcher has ended: see its error on stderr"
        return int(answer)

    def wait_for(self, words: str) -> None:
        """Until it says so in a line that no call before has read."""
        deadline = time.monotonic() + 500
        while time.monotonic() < deadline:
            ended = self.poll() is not None
            lines = self.said.split("\n")[:-1]
            while self.num_read < len(lines):
                self.num_read += 1
                if re.search(words, lines[self.num_read - 1]):
                    return
            assert not ended, f"it never said {words!r}: {self.said}{self.errors}"
            time.sleep(0.02)
        raise AssertionError(f"it has not said {words!r} yet: {self.said}{self.errors}")

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
