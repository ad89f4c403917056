"""The time that is left of a study: as expected, then by the rate of its trials."""

import time

import pytest

from search.tracking.remaining_time import RemainingTime, clock_after, write_left


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the monotonic clock, which a test may set."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_it_is_expected_until_a_trial_has_ended_and_then_measured(clock: list[float]) -> None:
    remaining = RemainingTime(4)
    assert remaining.seconds(0, 0.5) is None
    remaining.expected_s = 100
    clock[0] = 30
    assert remaining.seconds(0, 0.5) == 70
    assert remaining.seconds(1, 0.5) == pytest.approx(30 * (4 / 1.5 - 1))
    assert remaining.seconds(4, 0) == 0
    clock[0] = 101
    assert remaining.seconds(0, 0.5) is None  # the expectation was wrong


def test_what_an_earlier_driver_trained_says_nothing_of_the_rate(clock: list[float]) -> None:
    remaining = RemainingTime(20)
    remaining.trained_before = 0.9
    clock[0] = 60
    assert remaining.seconds(1, 0) == pytest.approx(60 * 19 / 0.1)
    assert remaining.seconds(1, 0.9) == pytest.approx(60 * 18.1 / 1.0)


def test_a_time_budget_limits_it(clock: list[float]) -> None:
    remaining = RemainingTime(4, budget_s=50)
    remaining.start()
    clock[0] = 20
    assert remaining.seconds(0, 0) == 30
    assert remaining.seconds(1, 0) == 30
    assert remaining.seconds(3, 0.5) == pytest.approx(20 / 7)
    clock[0] = 60
    assert remaining.seconds(1, 0) == 0


def test_it_is_written_with_the_time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "localtime", time.gmtime)
    assert clock_after(3 * 3600 + 120) == "03:02"
    assert write_left(720) == "about 12 min left, until 00:12"
    assert write_left(720, short=True) == "until 00:12"
    assert write_left(None) == write_left(0.0) == ""
    assert clock_after(86_400) == "1970-01-02 00:00"
