"""Signals to a search and to the processes that train for it, and those that cannot go on."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from drivers import (
    TRAINING,
    Driver,
    children,
    cluster_of_two,
    rows,
    wait_for_checkpoint,
    wait_until,
)
from study_factories import bring_store

from search import check
from search.storage.study_file import read_study_file
from search.study.verification import violations

pytestmark = pytest.mark.slow

EPOCHS = 12


def test_the_next_trial_of_a_process_that_is_not_to_be_used_again(
    blocks_folder: Path, tmp_path: Path
) -> None:
    argv = ["--data", str(blocks_folder), "--image-size", "32", "--epochs", str(EPOCHS)]
    argv += ["--scheduler", "none", "--checkpoint-every", "200ms", "--name", "next"]
    argv += ["--space", "supervised", "--storage", str(tmp_path), "--samples", "5"]
    argv += ["--max-size", "200KB"]  # students that train for a few seconds
    folder = tmp_path / "next"
    bring_store(tmp_path)
    with cluster_of_two() as (_, address):
        argv += ["--cpus-per-trial", "1"]
        driver = Driver(argv, RAY_ADDRESS=address, RAY_AUTH_MODE="disabled")
        driver.wait_for("data: ")

        # an unforeseen error in a trial, one of those that begin (two are over the limit): there is
        # a file where its folder should be
        wait_until((folder / "journal.log").exists)
        (folder / "models").mkdir(exist_ok=True)
        (folder / "models/0002").touch()
        driver.wait_for("trial 0002 FAIL: .*Error")
        (folder / "models/0002").unlink(missing_ok=True)

        # SIGTERM to processes that train, as from a node that is taken away
        wait_for_checkpoint(folder, time.time())
        # which are no children of the driver
        wait_until(lambda: children(os.getpid(), TRAINING))[0].terminate()
        driver.wait_for("paused after")
        assert driver.end(seconds=180) == ""
    assert "is asked again: Ray Tune ended it without notice" in driver.said
    wanted = [row for row in rows(folder) if not str(row["reason"]).startswith("over budget")]
    assert sorted(str(row["state"]) for row in wanted) == ["COMPLETE"] * 4 + ["FAIL"]
    assert check.main([str(folder)]) == 0


def test_a_signal_to_all_processes_is_an_orderly_end(blocks_folder: Path, tmp_path: Path) -> None:
    argv = ["--data", str(blocks_folder), "--image-size", "32", "--epochs", str(EPOCHS)]
    argv += ["--space", "supervised", "--storage", str(tmp_path), "--name", "group"]
    bring_store(tmp_path)
    driver = Driver([*argv, "--checkpoint-every", "200ms"], own_group=True)
    driver.wait_for("expected: ")
    wait_for_checkpoint(tmp_path / "group", driver.begin)
    os.killpg(driver.pid, signal.SIGTERM)
    begin = time.monotonic()
    driver.end(130)
    assert time.monotonic() - begin < 20  # a promise, not a speed
    assert "Ray is started again" not in driver.said
    assert "interrupted; go on with: " in driver.said
    assert list(violations(read_study_file(tmp_path / "group"), tmp_path / "group")) == []


def test_a_driver_that_ray_does_not_answer_handles_a_signal(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # which is no head of a cluster
        address = f"127.0.0.1:{server.getsockname()[1]}"
        argv = ["--space", "supervised", "--storage", str(tmp_path), "--name", "deaf"]
        driver = Driver(argv, RAY_ADDRESS=address)
        driver.wait_for("importing PyTorch and Ray")
        server.settimeout(60)
        server.accept()[0].close()  # of the check that somebody listens
        server.accept()  # Ray asks, and is not answered
        driver.send_signal(signal.SIGINT)
        begin = time.monotonic()
        errors = driver.end(130)
        assert time.monotonic() - begin < 20  # a promise, not a speed
        assert errors == "interrupted before the study began\n"
        assert not (tmp_path / "deaf").exists()
