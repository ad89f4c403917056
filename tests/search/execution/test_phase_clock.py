"""The phases of a search, with devices of which the test says how busy they are."""

import time

import pytest

from search.core.phase import STARTING, TEACHER, TRIALS
from search.execution import phase_clock
from search.execution.phase_clock import PhaseClock


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

    clock = PhaseClock(utilization)
    look(None)
    clock.enter(TEACHER)
    look(1.0)
    share[0] = None
    clock.enter(TRIALS)
    look(0.25)
    times = clock.close()
    assert list(times.phases) == [STARTING, TEACHER, TRIALS]
    assert times.phases[STARTING].utilization is None
    assert times.phases[STARTING].seconds > times.phases[TEACHER].seconds > 0
    assert times.phases[TEACHER].utilization == pytest.approx(1.0, abs=0.3)
    assert times.phases[TRIALS].utilization == pytest.approx(0.25, abs=0.2)
    assert times.first_step_s is None


def test_the_earliest_training_step_counts_from_the_start_of_the_process() -> None:
    clock = PhaseClock(lambda: None)
    for seconds in (8.0, 5.0, 30.0):
        clock.on_step(clock.begin + seconds)
    assert clock.close().first_step_s == pytest.approx(5.0)
    assert clock.begin < time.time()
