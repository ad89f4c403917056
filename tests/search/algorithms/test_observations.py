"""mIoU at the end, seen or extrapolated."""

import numpy as np
import pytest

from search.algorithms.observations import Observation, final_mious


def observe(partial: dict[int, float], final: float | None = None) -> Observation:
    return Observation({}, {}, (1.0,), partial, final)


def test_finished_trials_are_taken_as_they_are() -> None:
    assert final_mious([observe({1: 0.2, 3: 0.3}, 0.4)]).tolist() == [0.4]


def test_a_stopped_trial_is_extrapolated_by_its_last_rung() -> None:
    finished = [observe({1: x, 3: x + 0.1}, x + 0.2) for x in (0.1, 0.2, 0.3, 0.4)]
    stopped = [observe({1: 0.25}), observe({1: 0.0, 3: 0.35})]
    assert final_mious([*finished, *stopped])[-2:] == pytest.approx([0.45, 0.45])


def test_slopes_are_learned_from_enough_trials_and_drawn_towards_one() -> None:
    def estimate(count: int) -> float:
        finished = [observe({1: x}, 0.5 * x + 0.3) for x in np.linspace(0.1, 0.5, count)]
        return float(final_mious([*finished, observe({1: 0.7})])[-1])

    assert estimate(2) == pytest.approx(0.7 + 0.45 - 0.3)  # the mean difference alone
    assert estimate(50) == pytest.approx(0.65, abs=0.005)
    assert estimate(50) < estimate(3) < estimate(2)


def test_without_finished_trials_the_last_value_stands() -> None:
    assert final_mious([observe({1: 0.2})]).tolist() == [0.2]


def test_what_has_no_value_is_nan_and_estimates_stay_shares() -> None:
    estimates = final_mious([observe({}), observe({1: 0.1}, 0.9), observe({1: 0.9})])
    assert np.isnan(estimates[0])
    assert estimates[2] == 1.0
