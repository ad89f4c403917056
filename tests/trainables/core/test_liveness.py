"""The time of a stopwatch, by a clock that the test sets."""

from contextlib import suppress

import pytest

from trainables.core.liveness import Stopwatch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


def test_it_counts_from_its_start_on(clock: Clock) -> None:
    watch = Stopwatch(seconds=5)
    clock.now += 10
    assert watch.seconds == 5
    watch.start()
    clock.now += 2
    assert watch.seconds == 7
    watch.start()  # it runs already
    clock.now += 1
    assert watch.seconds == 8


def test_what_is_paused_does_not_count(clock: Clock) -> None:
    watch = Stopwatch()
    watch.start()
    clock.now += 1
    with watch.paused():
        clock.now += 10
        with watch.paused():
            clock.now += 10
        clock.now += 10
        assert watch.seconds == 1
    clock.now += 2
    assert watch.seconds == 3


def test_a_pause_ends_with_an_error(clock: Clock) -> None:
    watch = Stopwatch()
    watch.start()
    with suppress(OSError), watch.paused():
        clock.now += 10
        raise OSError("the disk is full")
    clock.now += 2
    assert watch.seconds == 2


def test_a_pause_starts_nothing(clock: Clock) -> None:
    watch = Stopwatch(seconds=3)
    with watch.paused():
        clock.now += 10
    clock.now += 10
    assert watch.seconds == 3
