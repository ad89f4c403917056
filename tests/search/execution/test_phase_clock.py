"""The phases of a search, with devices of which the test says how busy they are."""

import time

import pytest

from search.core.phase import STARTING, TEACHER, TRIALS, PhaseTimes
from search.execution import phase_clock
from search.execution.phase_clock import PhaseClock
from search.execution.restart import program_begin


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase_clock, "SAMPLE_EVERY_S", 0.01)


def test_each_phase_has_its_seconds_and_how_busy_the_devices_were() -> None:
    share: list[float | None] = [None]
    seen: list[float | None] = []

    def utilization() -> float | None:
        seen.append(share[0])
        return share[0]

    def look(value: float | None) -> None:
        share[0] = value
        seen.clear()
        while seen.count(value) < 4:
            time.sleep(0.001)

    kept: list[PhaseTimes] = []
    clock = PhaseClock(utilization, kept.append)
    look(None)
    clock.enter(TEACHER)
    look(1.0)
    share[0] = None
    clock.enter(TRIALS)
    look(0.25)
    clock.close()
    times = clock.times
    assert [list(each.phases)[-1] for each in kept] == [STARTING, TEACHER, TRIALS]
    assert kept[-1] == times
    assert list(times.phases) == [STARTING, TEACHER, TRIALS]
    assert times.phases[STARTING].utilization is None
    assert times.phases[STARTING].seconds > times.phases[TEACHER].seconds > 0
    assert times.phases[TEACHER].utilization == pytest.approx(1.0, abs=0.3)
    assert times.phases[TRIALS].utilization == pytest.approx(0.25, abs=0.2)
    assert times.first_step_s is None


def test_the_earliest_training_step_counts_from_the_start_of_the_process() -> None:
    clock = PhaseClock(lambda: None, lambda times: None)
    for seconds in (-3.0, 8.0, 5.0, 30.0):  # a process that was killed left the first one
        clock.on_step(clock.begin + seconds)
    clock.close()
    assert clock.times.first_step_s == pytest.approx(5.0)
    assert clock.begin < time.time()


def test_a_program_that_took_the_place_of_another_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PARETOSEG_BEGUN_AT", "1000.5")
    assert program_begin() == 1000.5
    monkeypatch.delenv("PARETOSEG_BEGUN_AT")
    assert time.time() - 3600 * 24 < program_begin() < time.time()
