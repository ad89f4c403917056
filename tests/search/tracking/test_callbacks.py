"""Events reach a slow or broken sink in order, once, and without blocking the driver."""

import threading
import time
from collections.abc import Sequence

import pytest

from search.core.record import Record
from search.tracking.callbacks import AsyncCallback, Event, run_with_timeout


def record(trial_id: str) -> Record:
    return Record(trial_id, "RUNNING", "", None, None)


class Slow:
    """Takes nothing until it is told to, and fails as often as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.may_go, self.failures = threading.Event(), failures
        self.got: list[Event] = []

    def deliver(self, events: Sequence[Event]) -> None:
        assert self.may_go.wait(10)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("nobody there")
        self.got += events


def test_nobody_waits_and_nothing_is_lost_or_told_twice() -> None:
    sink = Slow()
    callback = AsyncCallback(sink)
    begin = time.monotonic()
    for _ in range(100):
        for trial in "ab":
            callback.reported(record(trial))
    for trial in "ab":
        callback.ended(record(trial))
    assert time.monotonic() - begin < 5  # the sink has not even begun
    assert not sink.got
    sink.may_go.set()
    assert callback.close(30)
    for trial in "ab":
        kinds = [event.kind for event in sink.got if event.record.trial_id == trial]
        assert kinds == ["reported"] * 100 + ["ended"]


def test_what_failed_is_delivered_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.tracking.callbacks.PATIENCE_S", 0.05)
    sink = Slow(failures=2)
    sink.may_go.set()
    callback = AsyncCallback(sink)
    callback.started(record("a"))
    time.sleep(0.5)
    callback.ended(record("a"))
    assert callback.close(30)
    assert [event.kind for event in sink.got] == ["started", "ended"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "behind and tried again: nobody there" in line


def test_a_sink_that_never_recovers_does_not_block_the_driver() -> None:
    sink = Slow(failures=10**6)
    sink.may_go.set()
    callback = AsyncCallback(sink)
    callback.ended(record("a"))
    assert not callback.close(30)
    assert sink.got == []


def test_a_sink_that_hangs_does_not_block_the_driver() -> None:
    sink = Slow()
    callback = AsyncCallback(sink)
    callback.ended(record("a"))
    begin = time.monotonic()
    assert not callback.close(0.2)
    assert time.monotonic() - begin < 5
    sink.may_go.set()  # else the thread would fail, and say so, in a later test
    assert callback.close(10)


def test_a_final_report_has_a_timeout(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ConnectionError("nobody there")

    assert run_with_timeout(lambda: None, 5)
    assert not run_with_timeout(lambda: time.sleep(2), 0.1)
    assert not run_with_timeout(fail, 5)
    assert "could not be told the end: nobody there" in capsys.readouterr().err
