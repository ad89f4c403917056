"""Signals are handled whatever the main thread waits for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.execution.shutdown import GracefulShutdown, graceful_shutdown

PROGRAM = """
import ctypes, sys, time
from pathlib import Path
from search.execution import shutdown
from search.execution.shutdown import graceful_shutdown

shutdown.MAX_EXIT_S = float(sys.argv[2])
libc = ctypes.CDLL(None)
with graceful_shutdown(Path(sys.argv[1]), lambda: "go on with --resume x") as asked:
    print("ready", flush=True)
    if sys.argv[3] == "hangs":
        while True:
            libc.usleep(100_000_000)  # in C, which Python's own handlers do not end
    while not asked.requested:
        time.sleep(0.05)
    print("orderly", Path(sys.argv[1]).exists(), flush=True)
"""


def start(folder: Path, last_s: float, how: str) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-c", PROGRAM, str(folder / ".stop"), str(last_s), how]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_for_an_orderly_end(number: signal.Signals, tmp_path: Path) -> None:
    process = start(tmp_path, 60, "looks")
    process.send_signal(number)
    said, errors = process.communicate(timeout=30)
    assert (process.returncode, said, errors) == (0, "orderly True\n", "")
    assert not (tmp_path / ".stop").exists()


def test_the_second_signal_ends_a_process_that_hangs(tmp_path: Path) -> None:
    process = start(tmp_path, 60, "hangs")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=30)[1]
    assert (process.returncode, errors) == (130, "go on with --resume x\n")


def test_a_process_that_hangs_is_ended_in_time_after_the_first(tmp_path: Path) -> None:
    process = start(tmp_path, 0.5, "hangs")
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=30)[1]
    assert (process.returncode, errors) == (130, "go on with --resume x\n")


def test_a_process_that_nobody_listens_to_is_ended_all_the_same(tmp_path: Path) -> None:
    process = start(tmp_path, 0.5, "hangs")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # as of `search.run 2>&1 | head`
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130


def test_the_stop_file_exists_once_an_end_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the main thread may remove it before it is made, and it stays behind."""
    asked_before = []

    def watched(path: Path, content: str) -> None:
        asked_before.append(shutdown.requested)

    monkeypatch.setattr("search.execution.shutdown.replace_file", watched)
    shutdown = GracefulShutdown(tmp_path / ".stop")
    shutdown.on_signal()
    shutdown.closed.set()
    assert asked_before == [False]
    assert shutdown.requested


def test_before_there_is_a_study_nothing_is_made(tmp_path: Path) -> None:
    shutdown = GracefulShutdown(tmp_path / "study" / ".stop")
    shutdown.on_signal()
    shutdown.closed.set()
    assert shutdown.requested
    assert not list(tmp_path.iterdir())


def test_a_signal_at_the_last_moment_leaves_no_stop_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(path: Path, content: str) -> None:
        time.sleep(0.3)
        path.write_text(content)

    monkeypatch.setattr("search.execution.shutdown.replace_file", slow)
    stop_file = tmp_path / ".stop"
    with graceful_shutdown(stop_file) as shutdown:
        os.kill(os.getpid(), signal.SIGTERM)
    assert shutdown.requested
    assert not stop_file.exists()
