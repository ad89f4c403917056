"""Stand-ins for NVIDIA's program that controls the Multi-Process Service."""

import os
from pathlib import Path

import pytest

from trainables.training.mps import CONTROL, PIPES

SERVICE = """
if [ "$1" = -d ]
then
    echo "begins with CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-unset}" >> {log}
    touch "$CUDA_MPS_PIPE_DIRECTORY/control"
else
    read command
    echo "$command" >> {log}
    case "$command" in
        quit*) rm "$CUDA_MPS_PIPE_DIRECTORY/control" ;;
        *) test ! -e "$CUDA_MPS_PIPE_DIRECTORY/killed" ;;
    esac
fi
"""
"""A service that only notes what it is told; a file `killed` stands for its end."""
REFUSING = "echo it starts; echo an error: no rights; exit 1"
HANGING = "sleep 60"


def install(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a shell script the program that controls the service, and gives its log."""
    path, log = folder / "bin" / CONTROL, folder / "log"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{program.replace('{log}', str(log))}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    monkeypatch.delenv(PIPES, raising=False)
    return log
