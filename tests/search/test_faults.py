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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from drivers import (
    TRAINING,
    Driver,
    children,
    cluster_of_two,
    rows,
    states,
    tell,
    wait_for_checkpoint,
    wait_for_end,
    wait_until,
)

from search import check
from search.execution.tuning import MAX_RETRIES
from search.storage.study_file import read_study_file
from search.study.verification import violations

pytestmark = pytest.mark.slow

EPOCHS = 12


def test_a_study_that_everything_happens_to_is_whole(blocks_folder: Path, tmp_path: Path) -> None:
    port, before, after = free_port(), tmp_path / "before", tmp_path / "after"
    folder = after / "hurt"
    argv = ["--data", str(blocks_folder), "--image-size", "32", "--epochs", str(EPOCHS)]
    argv += ["--scheduler", "none", "--checkpoint-every", "200ms", "--name", "hurt"]
    argv += ["--max-size", "100KB"]  # students that train for a few seconds
    argv += ["--space", "qat", "--storage", str(before), "--samples", "5"]
    argv += ["--tracking-uri", f"http://127.0.0.1:{port}", "--cache", str(tmp_path / "cache")]

    with cluster_of_two() as (cluster, address):
        driver = Driver(argv, RAY_ADDRESS=address, RAY_AUTH_MODE="disabled")

        # one of the two nodes is lost
        driver.wait_for("expected: ")
        wait_until(lambda: any(before.glob("artifacts/.student-*-checkpoints/*.ckpt")))
        wait_for_checkpoint(before / "hurt", driver.begin)
        tell(cluster)
        driver.wait_for("goes on from its checkpoint")

        # kill -9 of the driver, and the storage is moved
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        tell(cluster)
    shutil.move(before, after)

    # kill -9 of each process of two trials
    driver = resume(folder)
    driver.wait_for("expected: ")
    for _ in range(1 + MAX_RETRIES):
        killed = wait_until(lambda: both(children(driver.pid, TRAINING)))
        for worker in killed:
            worker.kill()
        wait_for_end(killed)
    wait_for_checkpoint(folder, time.time())

    # Ctrl-C twice, the first of which cannot be obeyed
    for worker in children(driver.pid, TRAINING):
        worker.suspend()
    of_ray = children(driver.pid, "")
    for _ in range(2):
        driver.send_signal(signal.SIGINT)
        time.sleep(0.5)
    driver.end(130, seconds=5)
    wait_for_end(of_ray)

    # kill -9 of Ray's own processes; one trial at a time
    driver = resume(folder, "--samples", "7", "--cpus-per-trial", str(os.cpu_count()))
    for name in ("raylet", "gcs_server"):
        driver.wait_for("expected: ")  # it has begun again, and what trained before is gone
        wait_for_checkpoint(folder, time.time())
        for process in children(driver.pid, name):
            if process.name() == name:
                process.kill()
        driver.wait_for(f"{name}.* has died: the study is resumed")

    # SIGTERM
    driver.wait_for("expected: ")
    wait_for_checkpoint(folder, time.time())
    driver.send_signal(signal.SIGTERM)
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


def both(processes: list[psutil.Process]) -> list[psutil.Process]:
    """The processes where there are two, else none."""
    return processes if len(processes) == 2 else []


def resume(folder: Path, *argv: str) -> Driver:
    return Driver(["--storage", str(folder.parent), "--resume", folder.name, *argv])


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
