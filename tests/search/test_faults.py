"""Whole studies and what may happen to them: signals, dead processes, lost nodes, silent MLflow.

A reduced form of benchmarks/reliability; each ends with all invariants checked.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from search import check

pytestmark = pytest.mark.slow


EPOCHS = 8
TRAINING = "Trainable.train"
"""In the command line of a process that trains, which Ray names so."""


class Driver:
    """A search in a process of its own, whose words are read as it says them."""

    def __init__(self, argv: list[str], **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "search.run", "--space", "qat", *argv],
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


def has_checkpoint(folder: Path) -> bool:
    """Whether some trial has one."""
    return any(folder.glob("checkpoints/*/*.ckpt"))


def rows(folder: Path) -> list[dict[str, object]]:
    return pq.read_table(folder / "trials.parquet").to_pylist()


def resume(folder: Path, *argv: str) -> Driver:
    return Driver(["--storage", str(folder.parent), "--resume", folder.name, *argv])


def assert_whole(folder: Path, num_complete: int = 3) -> None:
    assert check.main([str(folder)]) == 0
    assert [row["state"] for row in rows(folder)] == ["COMPLETE"] * num_complete
    assert {row["epochs"] for row in rows(folder)} == {EPOCHS}


def test_sigterm_leaves_in_time_with_checkpoints(argv: list[str], tmp_path: Path) -> None:
    folder, driver = tmp_path / "hurt", Driver(argv)
    wait_until(lambda: has_checkpoint(folder))
    os.kill(driver.process.pid, signal.SIGTERM)
    begin = time.monotonic()
    driver.end(130)
    assert time.monotonic() - begin < 20  # a promise, not a speed
    assert "go on with" in driver.said
    assert check.main([str(folder)]) == 0
    paused = [row for row in rows(folder) if row["state"] == "PAUSED"]
    assert paused
    assert has_checkpoint(folder)
    resume(folder, "--samples", "4").end()
    assert_whole(folder, 4)
    assert not (folder / "checkpoints").exists()


def test_the_second_ctrl_c_leaves_at_once(argv: list[str], tmp_path: Path) -> None:
    folder, driver = tmp_path / "hurt", Driver(argv)
    wait_until(lambda: has_checkpoint(folder))
    for worker in driver.children(TRAINING):
        worker.suspend()  # so that the first one cannot be obeyed
    for _ in range(2):
        os.kill(driver.process.pid, signal.SIGINT)
        time.sleep(0.5)
    driver.end(130, seconds=5)
    time.sleep(3)  # for Ray's processes to follow
    resume(folder).end()
    assert_whole(folder)


def test_a_trial_that_always_dies_costs_itself_alone(argv: list[str], tmp_path: Path) -> None:
    folder, driver = tmp_path / "hurt", Driver([*argv, "--cpus-per-trial", "2"])
    for _ in range(4):
        wait_until(lambda: driver.children(TRAINING))
        for worker in driver.children(TRAINING):
            worker.kill()
        time.sleep(1)
    driver.end()
    first, *others = rows(folder)
    assert first["state"] == "FAIL"
    assert str(first["reason"]).startswith("its process died too often: ")
    assert "exit" in str(first["reason"])
    assert [row["state"] for row in others] == ["COMPLETE"] * 2
    assert check.main([str(folder)]) == 0


def test_ray_s_head_may_die(argv: list[str], tmp_path: Path) -> None:
    folder, driver = tmp_path / "hurt", Driver(argv)
    wait_until(lambda: has_checkpoint(folder))
    driver.children("gcs_server")[0].kill()
    driver.end()
    assert "has died: the study is resumed" in driver.said
    assert_whole(folder)


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
        driver = Driver(argv, RAY_ADDRESS=address, RAY_AUTH_MODE="disabled")
        wait_until(lambda: len(list(folder.glob("checkpoints/*/*.ckpt"))) >= 3)
        print("lose one", file=nodes.stdin, flush=True)
        driver.end()
        assert "goes on from its checkpoint" in driver.said
        assert_whole(folder)
        print("end", file=nodes.stdin, flush=True)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_silent_mlflow_is_told_later(argv: list[str], tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "hurt"
    driver = Driver([*argv, "--tracking-uri", f"http://127.0.0.1:{port}"])
    errors = driver.end()
    assert "MLflow does not answer now and is tried again later" in errors
    assert "--resume hurt delivers it" in errors
    assert [row["state"] for row in rows(folder)] == ["COMPLETE"] * 3
    store = ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--workers", "1"]
    store += ["--artifacts-destination", str(tmp_path / "files")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--port", str(port), *store],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        time.sleep(5)
        assert resume(folder).end() == ""
        assert_whole(folder)
    finally:
        os.killpg(server.pid, signal.SIGKILL)


def test_a_study_that_was_moved_goes_on(argv: list[str], tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    where = [str(before) if word == str(tmp_path) else word for word in argv]
    driver = Driver(where)
    driver.wait_for("trial 0000")
    driver.process.kill()
    driver.process.wait()
    time.sleep(3)
    shutil.move(before, after)
    resume(after / "hurt", "--samples", "4").end()
    assert_whole(after / "hurt", 4)
    assert not before.exists()
