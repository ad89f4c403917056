"""NVIDIA's Multi-Process Service (MPS), with which several processes use a GPU at the same time.

https://docs.nvidia.com/deploy/mps. Only processes that join it use it, and the mode of the GPU
stays as it is. A process that CUDA ends for an error ends the work of the others, too.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import torch

from trainables.core.progress import announce

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
PIPE, USUAL_PIPES = "control", Path("/tmp/nvidia-mps")
"""The pipe of a service, and the folder where CUDA looks for it if it is told of none."""
START_S, ANSWER_S, LEAVING_S = 20, 5, 10
"""Seconds that a service may take to start and to answer, and those that it gives its processes at
its end."""
STARTED = "started"
GUARD = f"""
exec 3<&0
(
    {CONTROL} -d || exit 1
    echo {STARTED}
    cat <&3 > /dev/null
    echo quit -t {LEAVING_S} | {CONTROL}
) &
"""
"""A shell that ends the service once its input has ended, also where who began it was killed.

It runs in the background, as nobody's child: Ray kills the children of its workers.
"""


class MpsUnavailable(Exception):
    """The service does not start; the message is the reason."""


def new_folder() -> Path:
    """A name for the folder of a service; it is short, since the length of pipes' names is limited.

    It is the same on all nodes of a cluster, and is not made.
    """
    with tempfile.TemporaryDirectory(prefix="mps-") as unused:
        return Path(unused)


def is_in_use() -> bool:
    """Whether this process uses a service of its surroundings, as one of the whole machine."""
    return (Path(os.environ.get(PIPES, USUAL_PIPES)) / PIPE).exists()


def join_service(folder: Path) -> None:
    """Has this process use the service in a folder, if one runs there; says where it cannot."""
    if os.environ.get(PIPES) == str(folder) or not (folder / PIPE).exists():
        return
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        announce("the Multi-Process Service (MPS) is not used: this process has used a GPU before")
    elif not answers(folder):  # its pipe outlives a service that was killed
        announce("the Multi-Process Service (MPS) is not used: it does not answer")
    else:
        os.environ[PIPES] = str(folder)


def answers(folder: Path) -> bool:
    """Whether the service in a folder is alive."""
    try:
        asked = subprocess.run(
            [CONTROL],
            input="get_server_list\n",
            env={**os.environ, PIPES: str(folder)},
            text=True,
            capture_output=True,
            timeout=ANSWER_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


class MultiProcessService:
    """The service in a folder of this machine, for all its GPUs, until `close`.

    It ends with this process, too.

    Raises:
        MpsUnavailable: it does not start, as without a driver or without the rights to.
    """

    def __init__(self, folder: Path) -> None:
        if shutil.which(CONTROL) is None:
            raise MpsUnavailable(f"there is no {CONTROL}")
        if "MIG" in os.environ.get("CUDA_VISIBLE_DEVICES", ""):
            raise MpsUnavailable("CUDA_VISIBLE_DEVICES names parts of GPUs (MIG)")
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise MpsUnavailable(str(error)) from error
        environment = {**os.environ, PIPES: str(folder), LOGS: str(folder)}
        environment.pop("CUDA_VISIBLE_DEVICES", None)  # by which processes number the GPUs
        self.guard = subprocess.Popen(
            ["sh", "-c", GUARD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,  # Ctrl-C is not for it
        )
        late = threading.Timer(START_S, self._kill)
        late.start()
        try:
            self._await_start()
        finally:
            late.cancel()

    def _await_start(self) -> None:
        reason = f"{CONTROL} does not answer"
        assert self.guard.stdout is not None
        for line in map(str.strip, self.guard.stdout):
            if line == STARTED:
                return
            reason = line or reason
        self.close()
        raise MpsUnavailable(reason)

    def close(self) -> None:
        """Ends the service, and what still uses it."""
        late = threading.Timer(2 * LEAVING_S, self._kill)
        late.start()
        try:
            self.guard.communicate()  # until nobody writes any more
        finally:
            late.cancel()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kill(self) -> None:
        """Kills the guard and what it waits for."""
        with suppress(ProcessLookupError):
            os.killpg(self.guard.pid, signal.SIGKILL)
