"""The start of Ray in a thread, with a Ray that the test stands in for."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from search.execution.ray_start import RayStart, RayUnavailable, await_ray, end_ray, ending_ray


class Ray:
    """What the thread and the driver call of Ray."""

    def __init__(self) -> None:
        self.may_start, self.calls = threading.Event(), list[str]()
        self.error: Exception | None = None
        self.thread: threading.Thread | None = None

    def init(self, *given: Any, **named: Any) -> None:
        self.calls.append("init")
        self.thread = threading.current_thread()
        assert self.may_start.wait(30)
        if self.error:
            raise self.error

    def shutdown(self) -> None:
        self.calls.append("shutdown")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ray]:
    stand_in = Ray()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", stand_in.init)
    monkeypatch.setattr("ray.shutdown", stand_in.shutdown)
    monkeypatch.setattr("search.execution.ray_start.PAUSE_S", 0.01)
    yield stand_in
    stand_in.may_start.set()
    end_ray()


def test_ray_is_started_once_by_a_thread_that_lives_as_long(ray: Ray) -> None:
    RayStart.begin()
    RayStart.begin()
    ray.may_start.set()
    await_ray(lambda: False)
    assert ray.calls == ["init"]
    assert ray.thread is not None
    assert ray.thread.is_alive()  # else the kernel would kill Ray's processes
    end_ray()
    ray.thread.join(10)
    assert not ray.thread.is_alive()
    assert ray.calls == ["init", "shutdown"]
    assert RayStart.now is None


def test_a_command_that_ends_early_ends_the_ray_that_it_began(ray: Ray) -> None:
    timer = threading.Timer(0.3, ray.may_start.set)
    with ending_ray():
        RayStart.begin()
        timer.start()
    assert ray.calls == ["init", "shutdown"]


def test_a_ray_that_does_not_start_says_why_and_is_ended(ray: Ray) -> None:
    ray.error = TimeoutError("15 s for a port")
    ray.may_start.set()
    with pytest.raises(RayUnavailable, match="15 s for a port"), ending_ray():
        await_ray(lambda: False)
    assert RayStart.now is None


def test_a_study_that_is_to_end_waits_for_no_further_attempt(ray: Ray) -> None:
    ray.error = TimeoutError("15 s for a port")
    start = RayStart.begin()
    threading.Timer(0.3, ray.may_start.set).start()
    with pytest.raises(KeyboardInterrupt):
        await_ray(lambda: True)
    assert start.is_ending.is_set()
    assert ray.calls.count("init") == 1


def test_sigterm_is_as_ctrl_c_before_a_study_begins(ray: Ray) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), ending_ray():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_bad_input_that_is_found_while_ray_starts_leaves_no_process_behind() -> None:
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        command = ["--space", "qkd", "--teacher", "nothing", "--storage", f"{folder}/studies"]
        ended = subprocess.run(
            [sys.executable, "-m", "search.run", *command],
            env={**os.environ, "RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert line.startswith("error: --teacher must be auto, ")
        assert Path(folder, "ray").is_dir()  # it had begun
        processes = psutil.process_iter(["cmdline"])
        assert not [each for each in processes if folder in " ".join(each.info["cmdline"] or ())]
