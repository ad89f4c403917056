"""Whole studies and what may happen to them: signals, dead processes, lost nodes, silent MLflow.

A reduced form of benchmarks/reliability. Starting a driver takes far longer than what happens to it
here, so that one study suffers one thing after the other; each ends with all invariants checked.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import psutil
import pyarrow.parquet as pq
import pytest

from search import check
from search.cluster import MAX_RETRIES

pytestmark = pytest.mark.slow


EPOCHS = 8
TRAINING = "Trainable.train"
"""In the command line of a process that trains, which Ray names so."""


class Driver:
    """A search in a process of its own, whose words are read as it says them."""

    def __init__(self, argv: list[str], **environment: str) -> None:
        self.begin = time.time()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "search.run", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.said = ""

    def wait_for(self, words: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if words in line:
                return
        raise AssertionError(f"it never said {words!r}: {self.said}{self.process.communicate()[1]}")

    def end(self, status: int = 0, seconds: float = 240) -> str:
        """What it said on stderr, having left with this status."""
        said, errors = self.process.communicate(timeout=seconds)
        self.said += said
        assert self.process.returncode == status, self.said + errors
        assert "Traceback" not in errors
        return errors

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def children(self, words: str) -> list[psutil.Process]:
        """Its processes with these words in their command lines."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if words in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found


@pytest.fixture
def argv(blocks_folder: Path, tmp_path: Path) -> list[str]:
    argv = ["--data", str(blocks_folder), "--image-size", "32", "--epochs", str(EPOCHS)]
    argv += ["--scheduler", "none", "--checkpoint-every", "100ms", "--name", "hurt"]
    return [*argv, "--storage", str(tmp_path), "--samples", "3"]


def wait_until(is_so: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_checkpoint(driver: Driver, folder: Path) -> None:
    """Until some trial has one of this driver's life."""

    def is_new(path: Path) -> bool:
        try:
            return path.stat().st_mtime > driver.begin
        except FileNotFoundError:  # the third newest is deleted
            return False

    wait_until(lambda: any(is_new(path) for path in folder.glob("checkpoints/*/*.ckpt")))


def rows(folder: Path) -> list[dict[str, object]]:
    return pq.read_table(folder / "trials.parquet").to_pylist()


def states(folder: Path) -> list[object]:
    return [row["state"] for row in rows(folder)]


def resume(folder: Path, space: str, *argv: str) -> Driver:
    where = ["--space", space, "--storage", str(folder.parent), "--resume", folder.name]
    return Driver([*where, *argv])


def assert_whole(folder: Path, num_complete: int) -> None:
    assert check.main([str(folder)]) == 0
    assert states(folder) == ["COMPLETE"] * num_complete
    assert {row["epochs"] for row in rows(folder)} == {EPOCHS}


def test_a_study_killed_moved_stopped_and_beheaded_is_whole(
    argv: list[str], tmp_path: Path
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    folder = after / "hurt"

    # kill -9 of the driver, and the storage is moved
    where = [str(before) if word == str(tmp_path) else word for word in argv]
    driver = Driver(["--space", "qat", *where])
    driver.wait_for("trial 0000")
    driver.process.kill()
    driver.process.wait()
    time.sleep(3)  # for Ray's processes to follow
    shutil.move(before, after)

    # SIGTERM
    driver = resume(folder, "qat", "--samples", "6")
    wait_for_checkpoint(driver, folder)
    driver.signal(signal.SIGTERM)
    begin = time.monotonic()
    driver.end(130)
    assert time.monotonic() - begin < 20  # a promise, not a speed
    assert f"--storage {after} --resume hurt" in driver.said
    assert check.main([str(folder)]) == 0
    assert "PAUSED" in states(folder)

    # Ctrl-C twice, the first of which cannot be obeyed
    driver = resume(folder, "qat")
    wait_for_checkpoint(driver, folder)
    for worker in driver.children(TRAINING):
        worker.suspend()
    for _ in range(2):
        driver.signal(signal.SIGINT)
        time.sleep(0.5)
    driver.end(130, seconds=5)
    time.sleep(3)

    # kill -9 of Ray's head
    driver = resume(folder, "qat")
    wait_for_checkpoint(driver, folder)
    driver.children("gcs_server")[0].kill()
    driver.end()
    assert "has died: the study is resumed" in driver.said
    assert_whole(folder, 6)
    assert not (folder / "checkpoints").exists()
    assert not before.exists()


def test_a_trial_that_always_dies_costs_itself_alone_and_mlflow_is_told_later(
    argv: list[str], teacher_file: Path, tmp_path: Path
) -> None:
    folder, port = tmp_path / "hurt", free_port()

    # kill -9 of each process of the first trial; then Ctrl-C; MLflow is never there
    argv = ["--space", "qkd", "--teacher", str(teacher_file), "--cpus-per-trial", "2", *argv]
    driver = Driver([*argv, "--tracking-uri", f"http://127.0.0.1:{port}"])
    for _ in range(1 + MAX_RETRIES):
        wait_until(lambda: driver.children(TRAINING))
        for worker in driver.children(TRAINING):
            worker.kill()
        time.sleep(1)
    wait_until(lambda: any(folder.glob("checkpoints/0001/*.ckpt")))
    driver.signal(signal.SIGINT)
    errors = driver.end(130)
    assert "MLflow does not answer now and is tried again later" in errors
    assert "--resume hurt delivers it" in errors
    assert f"--storage {tmp_path} --resume hurt" in driver.said
    first, *_ = rows(folder)
    assert str(first["reason"]).startswith("its process died too often: ")
    assert "exit" in str(first["reason"])
    assert states(folder) == ["FAIL", "PAUSED"]

    with mlflow_server(port, tmp_path):
        driver = resume(folder, "qkd")
        assert driver.end() == ""
        assert states(folder) == ["FAIL", "COMPLETE", "COMPLETE"]
        assert check.main([str(folder)]) == 0


@contextmanager
def mlflow_server(port: int, folder: Path) -> Iterator[None]:
    """An MLflow server that answers."""
    store = ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--workers", "1"]
    store += ["--artifacts-destination", str(folder / "files")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--port", str(port), *store],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def answers() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{port}/health"):
                return True
        except OSError:
            return False

    try:
        wait_until(answers)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


CLUSTER = """
import sys, time
from pathlib import Path
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(nodes[0], allow_graceful=False)
print("lost", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


def test_a_lost_node_costs_nothing(argv: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as nodes:
        assert nodes.stdin is not None
        assert nodes.stdout is not None
        address = next(line for line in nodes.stdout if ":" in line and line[0].isdigit()).strip()
        folder = tmp_path / "hurt"
        argv = ["--space", "qat", *argv]
        driver = Driver(argv, RAY_ADDRESS=address, RAY_AUTH_MODE="disabled")
        wait_until(lambda: len(list(folder.glob("checkpoints/*/*.ckpt"))) >= 3)
        print("lose one", file=nodes.stdin, flush=True)
        driver.end()
        assert "goes on from its checkpoint" in driver.said
        assert_whole(folder, 3)
        print("end", file=nodes.stdin, flush=True)
