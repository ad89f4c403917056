"""What the driver does when a process of its own Ray has died."""

import threading
from typing import Any

import pytest

from search.execution import restart
from search.execution.restart import (
    MAX_RESTARTS,
    RAY_RESTARTS,
    STOP,
    DriverRestart,
    is_stop_requested,
)


class Process:
    def __init__(self) -> None:
        self.killed = False

    def kill(self) -> None:
        self.killed = True


class Node:
    """Two processes, of which one may be dead."""

    def __init__(self) -> None:
        self.processes = {"raylet": Process(), "gcs_server": Process()}
        self.dead: list[str] = []

    def dead_processes(self) -> list[tuple[str, Process]]:
        return [(name, self.processes[name]) for name in self.dead]

    def live_processes(self) -> list[tuple[str, Process]]:
        return [(n, process) for n, process in self.processes.items() if n not in self.dead]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(restart, "GRACE_S", 0.2)
    monkeypatch.setenv(RAY_RESTARTS, "0")


def test_the_study_is_resumed_once_the_rest_is_dead_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    node, heard, done = Node(), [], threading.Event()

    def replace(*command: Any) -> None:
        heard.append((command, node.processes["gcs_server"].killed))
        done.set()

    watching = DriverRestart(node, ["python", "-m", "search.run"], lambda: False, replace)
    node.dead = ["raylet"]
    assert done.wait(5)
    watching.close()
    assert heard == [(("python", ["python", "-m", "search.run"]), True)]
    assert "its raylet has died" in capsys.readouterr().out
    assert restart.os.environ[RAY_RESTARTS] == "1"


def test_it_gives_up_when_that_happens_again_and_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(RAY_RESTARTS, str(MAX_RESTARTS))
    left: list[int] = []
    done = threading.Event()

    def leave(status: int) -> None:
        left.append(status)
        done.set()
        raise SystemExit  # ends the thread

    monkeypatch.setattr(restart.os, "_exit", leave)
    node = Node()
    node.dead = ["raylet"]
    watching = DriverRestart(node, ["python"], lambda: False, lambda *_: left.append(0))
    assert done.wait(5)
    watching.close()
    assert left == [1]
    assert "must not die again and again, but raylet did" in capsys.readouterr().err


def test_a_signal_to_all_processes_is_no_death_of_ray(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(STOP, "")  # and takes back what is set from here on
    node, done = Node(), threading.Event()
    signalled = threading.Event()
    node.dead = ["raylet"]
    watching = DriverRestart(node, ["python"], signalled.is_set, lambda *_: done.set())
    signalled.set()  # the driver gets the signal a little later than Ray
    assert done.wait(5)
    watching.close()
    assert capsys.readouterr().out == ""
    assert (restart.os.environ[STOP], restart.os.environ[RAY_RESTARTS]) == ("yes", "0")
    assert is_stop_requested()
    assert is_stop_requested()  # asking changes nothing


def test_a_program_that_nobody_told_to_stop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STOP, raising=False)
    assert not is_stop_requested()


def test_a_driver_that_leaves_by_itself_is_left_to_it() -> None:
    node = Node()
    node.dead = ["raylet"]
    watching = DriverRestart(node, ["python"], lambda: True, lambda *_: pytest.fail("began again"))
    watching.close()
    assert not watching.thread.is_alive()


def test_nothing_happens_to_a_ray_that_is_ended_on_purpose() -> None:
    node = Node()
    watching = DriverRestart(node, ["python"], lambda: True, lambda *_: pytest.fail("began again"))
    watching.close()
    node.dead = ["raylet"]
    assert not watching.thread.is_alive()
