"""One study and all that may happen to it: signals, dead processes, a lost node, silent MLflow.

A reduced form of benchmarks/reliability. Starting a driver takes far longer than what happens to it
here, so that one study is exposed to one fault after the other.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

import psutil
import pyarrow.parquet as pq
import pytest

from benchmarks.reliability.moments import newest
from search import check
from search.execution.tuning import MAX_RETRIES
from search.storage.study_file import read_study_file
from search.study.verification import violations

pytestmark = pytest.mark.slow


EPOCHS = 16
TRAINING = "Trainable.train"
"""Part of the command line of a process that trains, by Ray's name for it."""


class Driver:
    """A search in its own process, whose output is read line by line."""

    def __init__(self, argv: list[str], own_group: bool = False, **environment: str) -> None:
        self.begin = time.time()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "search.run", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            start_new_session=own_group,
        )
        self.said = ""

    def wait_for(self, words: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if re.search(words, line):
                return
        raise AssertionError(f"it never said {words!r}: {self.said}{self.process.communicate()[1]}")

    def end(self, status: int = 0, seconds: float = 240) -> str:
        """Its output on stderr, after it has exited with this status."""
        said, errors = self.process.communicate(timeout=seconds)
        self.said += said
        assert self.process.returncode == status, self.said + errors
        assert "Traceback" not in errors
        return errors


def children(pid: int, words: str) -> list[psutil.Process]:
    """Descendants of a process with these words in their command lines."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if words in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def wait_until(is_so: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_checkpoint(folder: Path, since: float) -> None:
    """Until some trial has one that was written since then."""
    wait_until(lambda: any(newest(trial) > since for trial in folder.glob("checkpoints/*")))


def rows(folder: Path) -> list[dict[str, object]]:
    return pq.read_table(folder / "trials.parquet").to_pylist()


def states(folder: Path) -> list[object]:
    return [row["state"] for row in rows(folder)]


def test_a_study_that_everything_happens_to_is_whole(blocks_folder: Path, tmp_path: Path) -> None:
    port, before, after = free_port(), tmp_path / "before", tmp_path / "after"
    folder = after / "hurt"
    argv = ["--data", str(blocks_folder), "--image-size", "32", "--epochs", str(EPOCHS)]
    argv += ["--scheduler", "none", "--checkpoint-every", "500ms", "--name", "hurt"]
    argv += ["--space", "qat", "--storage", str(before), "--samples", "5"]
    argv += ["--tracking-uri", f"http://127.0.0.1:{port}"]

    with cluster_of_two() as (cluster, address):
        driver = Driver(argv, RAY_ADDRESS=address, RAY_AUTH_MODE="disabled")

        # one of the two nodes is lost
        wait_for_checkpoint(before / "hurt", driver.begin)
        tell(cluster)
        driver.wait_for("goes on from its checkpoint")

        # kill -9 of the driver, and the storage is moved
        driver.process.send_signal(signal.SIGKILL)
        driver.process.wait()
        tell(cluster)
    shutil.move(before, after)

    # kill -9 of each process of two trials
    driver = resume(folder)
    for _ in range(1 + MAX_RETRIES):
        wait_until(lambda: len(children(driver.process.pid, TRAINING)) == 2)
        for worker in children(driver.process.pid, TRAINING):
            worker.kill()
        time.sleep(1)
    wait_for_checkpoint(folder, time.time())

    # Ctrl-C twice, the first of which cannot be obeyed
    for worker in children(driver.process.pid, TRAINING):
        worker.suspend()
    for _ in range(2):
        driver.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    driver.end(130, seconds=5)
    time.sleep(3)  # for Ray's processes to follow

    # kill -9 of Ray's own processes
    driver = resume(folder, "--samples", "7")
    for name in ("raylet", "gcs_server"):
        driver.wait_for("data: ")  # it has begun again, and what trained before is gone
        wait_for_checkpoint(folder, time.time())
        for process in children(driver.process.pid, name):
            if process.name() == name:
                process.kill()
        driver.wait_for(f"{name}.* has died: the study is resumed")

    # SIGTERM
    driver.wait_for("data: ")
    wait_for_checkpoint(folder, time.time())
    driver.process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    errors = driver.end(130)
    assert time.monotonic() - begin < 20  # a promise, not a speed
    assert f"--storage {after} --resume hurt" in driver.said
    assert "MLflow does not answer now and is tried again later" in errors
    assert "--resume hurt delivers it" in errors
    assert "PAUSED" in states(folder)
    assert list(violations(read_study_file(folder), folder, with_mlflow=False)) == []

    # MLflow is there only when all is over
    assert "--resume hurt delivers it" in resume(folder).end()
    with mlflow_server(port, tmp_path):
        assert resume(folder).end() == ""
        assert check.main([str(folder)]) == 0
    failed = [row for row in rows(folder) if row["state"] == "FAIL"]
    finished = [row for row in rows(folder) if row["state"] == "COMPLETE"]
    assert (len(failed), len(finished)) == (2, 5)
    assert {row["epochs"] for row in finished} == {EPOCHS}
    for row in failed:
        assert re.match("its process died too often: .*exit", str(row["reason"]))
    assert not (folder / "checkpoints").exists()
    assert not before.exists()


def resume(folder: Path, *argv: str) -> Driver:
    return Driver(["--storage", str(folder.parent), "--resume", folder.name, *argv])


@pytest.mark.parametrize("where", ["this machine", "cluster"])
def test_the_next_trial_of_a_process_that_is_not_to_be_used_again(
    where: str, blocks_folder: Path, tmp_path: Path
) -> None:
    argv = ["--data", str(blocks_folder), "--image-size", "32", "--epochs", str(EPOCHS)]
    argv += ["--scheduler", "none", "--checkpoint-every", "500ms", "--name", "next"]
    argv += ["--space", "supervised", "--storage", str(tmp_path), "--samples", "5"]
    folder = tmp_path / "next"
    with ExitStack() as stack:
        environment = {}
        if where == "cluster":
            _, address = stack.enter_context(cluster_of_two())
            environment = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
        driver = Driver([*argv, "--cpus-per-trial", "1"], **environment)
        driver.wait_for("data: ")

        # an unforeseen error in a trial: there is a file where its folder should be
        wait_until((folder / "journal.log").exists)
        (folder / "models").mkdir(exist_ok=True)
        (folder / "models/0000").touch()
        driver.wait_for("trial 0000 FAIL: .*Error")
        (folder / "models/0000").unlink()

        # SIGTERM to processes that train, as from a node that is taken away
        wait_for_checkpoint(folder, time.time())
        wait_until(lambda: trainers(driver, where))
        trainers(driver, where)[0].terminate()
        driver.wait_for("paused after")
        assert driver.end(seconds=180) == ""
    assert "is asked again: Ray Tune ended it without notice" in driver.said
    assert sorted(map(str, states(folder))) == ["COMPLETE"] * 4 + ["FAIL"]
    assert check.main([str(folder)]) == 0


def trainers(driver: Driver, where: str) -> list[psutil.Process]:
    """The processes that train, which on a cluster are no children of the driver."""
    return children(driver.process.pid if where == "this machine" else os.getpid(), TRAINING)


def test_a_signal_to_all_processes_is_an_orderly_end(blocks_folder: Path, tmp_path: Path) -> None:
    argv = ["--data", str(blocks_folder), "--image-size", "32", "--epochs", str(EPOCHS)]
    argv += ["--space", "supervised", "--storage", str(tmp_path), "--name", "group"]
    driver = Driver([*argv, "--checkpoint-every", "500ms"], own_group=True)
    driver.wait_for("data: ")
    wait_for_checkpoint(tmp_path / "group", driver.begin)
    os.killpg(driver.process.pid, signal.SIGTERM)
    begin = time.monotonic()
    driver.end(130)
    assert time.monotonic() - begin < 20  # a promise, not a speed
    assert "Ray is started again" not in driver.said
    assert "interrupted; go on with: " in driver.said
    assert list(violations(read_study_file(tmp_path / "group"), tmp_path / "group")) == []


def test_a_driver_that_ray_does_not_answer_hears_a_signal(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # which is no head of a cluster
        address = f"127.0.0.1:{server.getsockname()[1]}"
        argv = ["--space", "supervised", "--storage", str(tmp_path), "--name", "deaf"]
        driver = Driver(argv, RAY_ADDRESS=address)
        driver.wait_for("connecting to the cluster")
        time.sleep(2)  # inside ray.init
        driver.process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        errors = driver.end(130)
        assert time.monotonic() - begin < 20  # a promise, not a speed
        assert errors == "interrupted; study deaf has not begun: the same command begins it\n"
        assert not (tmp_path / "deaf").exists()


CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
print("at", cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(nodes[0], allow_graceful=False)
sys.stdin.readline()
cluster.shutdown()
"""


@contextmanager
def cluster_of_two() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A cluster and its address; told something it loses a node, told again it ends."""
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    ) as cluster:
        assert cluster.stdout is not None
        line = next(line for line in cluster.stdout if line.startswith("at "))
        yield cluster, line.split()[1]


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    print(file=process.stdin, flush=True)


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
