"""Searches in processes of their own, what is done to them, and clusters on this machine."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
import pyarrow.parquet as pq
from command_server import Command, start_server

from benchmarks.reliability.moments import newest

Found = TypeVar("Found")
TRAINING = "Trainable.train"
"""Part of the command line of a process that trains, by Ray's name for it."""


class Driver(Command):
    """A search in its own process, whose output is read line by line."""

    def __init__(self, argv: Sequence[str], own_group: bool = False, **environment: str) -> None:
        self.begin = time.time()
        # two trials at a time
        super().__init__("search.run", *argv, own_group=own_group, cores=all_cores(), **environment)

    def end(self, status: int = 0, seconds: float = 240) -> str:
        """Its output on stderr, after it has exited with this status."""
        assert self.wait(seconds) == status, self.said + self.errors
        assert "Traceback" not in self.errors
        return self.errors


def all_cores() -> range:
    """The cores that conftest.py divides among the test processes."""
    return range(os.cpu_count() or 1)


def children(pid: int, words: str) -> list[psutil.Process]:
    """Descendants of a process with these words in their command lines."""
    found = []
    for process in descendants(pid):
        try:
            if words in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def descendants(pid: int) -> list[psutil.Process]:
    """Those of a process and, for each that stands for a forked one, that one and its own."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            forked = process
            while stands_for := re.fullmatch(r"fork (\d+)", forked.name()):
                forked = psutil.Process(int(stands_for[1]))
            below = descendants(forked.pid) if forked != process else []
            found |= {each.pid: each for each in (forked, *below)}
    return list(found.values())


def wait_until(is_so: Callable[[], Found], seconds: float = 120) -> Found:
    """What is returned once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def wait_for_end(processes: Sequence[psutil.Process]) -> None:
    """Until processes have ended that follow one which is gone, or some seconds have passed."""
    psutil.wait_procs(processes, timeout=3)


def wait_for_checkpoint(folder: Path, since: float) -> None:
    """Until some trial has one that was written since then."""
    wait_until(lambda: any(newest(trial) > since for trial in folder.glob("checkpoints/*")))


def rows(folder: Path) -> list[dict[str, object]]:
    return pq.read_table(folder / "trials.parquet").to_pylist()


def states(folder: Path) -> list[object]:
    return [row["state"] for row in rows(folder)]


SEVERAL_NODES = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
"""What a command that ran in this process may have set otherwise, as for Ray on one machine."""
CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster

sys.executable = sys.argv[1]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(**node) for node in json.loads(sys.argv[2])]
print("at", cluster.address, flush=True)
sys.stdin.readline()
for node in nodes[:-1] or nodes:
    cluster.remove_node(node, allow_graceful=False)
sys.stdin.readline()
cluster.shutdown()
"""


def cluster_of_two() -> AbstractContextManager[tuple[subprocess.Popen[str], str]]:
    """A cluster of two nodes of one CPU, where no token is needed."""
    return cluster_of({"num_cpus": 1}, {"num_cpus": 1}, RAY_AUTH_MODE="disabled")


@contextmanager
def cluster_of(
    *nodes: dict[str, object], **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A cluster and its address; told something it loses all nodes but the last, or its only one.

    Told again it ends.
    """
    server = start_server()
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER, str(server.python), json.dumps(nodes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **server.environment, **SEVERAL_NODES, **environment},
        preexec_fn=lambda: os.sched_setaffinity(0, all_cores()),
    ) as cluster:
        assert cluster.stdout is not None
        line = next(line for line in cluster.stdout if line.startswith("at "))
        yield cluster, line.split()[1]


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    print(file=process.stdin, flush=True)
