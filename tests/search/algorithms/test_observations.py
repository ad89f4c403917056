"""Observations of trials: their history, and mIoU at the end, seen or extrapolated."""

from dataclasses import replace

import numpy as np
import pytest
from factories import make_metrics
from optuna.distributions import IntDistribution

from search.algorithms.observations import Observation, TrialHistory, final_mious
from search.core.constraints import Costs
from search.core.objectives import named_objectives
from search.core.record import Record, RecordState, RungDecision
from trainables.config import TrialConfig
from trainables.recipes.configs import Supervised


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


CONFIG = TrialConfig(recipe=Supervised(), num_epochs=9)
METRICS = make_metrics(0.5, 100, epoch=9)
RUNNING = Record(
    "0007",
    "RUNNING",
    "",
    CONFIG,
    None,
    params={"student.width": 4},
    distributions={"student.width": IntDistribution(2, 8)},
    ray_id="a",
)


def make(latency: float | None = 3.0) -> TrialHistory:
    objectives = named_objectives(("size", "miou", "latency"))
    return TrialHistory(
        objectives, lambda config: Costs(size_bytes=100, macs=7, latency_ms=latency)
    )


def test_a_trial_is_followed_from_its_launch_to_its_end() -> None:
    history = make()
    history.update(RUNNING)
    (observation,) = history.all_observations()
    assert (observation.running, observation.final, observation.partial) == (True, None, {})
    assert observation.costs == (100.0, 3.0)
    rung = RungDecision("a", 3, 0, (100.0, -0.4, 3.0), True)
    end = RungDecision("a", 9, 1, (100.0, -0.5, 3.0), True)
    history.update(replace(RUNNING, rung_decisions=(rung,)))
    assert history.all_observations()[0].partial == {3: 0.4}
    history.update(replace(RUNNING, state="COMPLETE", metrics=METRICS, rung_decisions=(rung, end)))
    (observation,) = history.all_observations()
    assert (observation.running, observation.final) == (False, 0.5)
    assert observation.partial == {3: 0.4}
    assert history.trained == {CONFIG.digest(): "0007"}


@pytest.mark.parametrize(
    ("record", "num_observations", "num_trained"),
    [
        (replace(RUNNING, state="PRUNED", reason="others promise more"), 1, 1),
        (replace(RUNNING, state="FAIL", reason="not learning: mIoU 0.1"), 1, 1),
        (replace(RUNNING, state="FAIL", reason="not finite: loss"), 1, 1),
        (replace(RUNNING, state="FAIL", reason="its process died too often: killed"), 0, 1),
        (replace(RUNNING, state="FAIL", reason="hung: no progress for 1 s"), 0, 1),
        (replace(RUNNING, state="PAUSED"), 1, 1),
        (replace(RUNNING, state="PRUNED", reason="over budget", ray_id=None), 1, 1),
    ],
)
def test_what_ended_otherwise(record: Record, num_observations: int, num_trained: int) -> None:
    history = make()
    history.update(RUNNING)
    history.update(record)
    assert (len(history.observations), len(history.trained)) == (num_observations, num_trained)


@pytest.mark.parametrize("state", ["RUNNING", "PAUSED", "PRUNED", "COMPLETE", "FAIL"])
def test_what_is_on_its_way_or_will_go_on_counts_as_running(state: RecordState) -> None:
    history = make()
    history.update(replace(RUNNING, state=state, reason="not learning: mIoU 0.1", metrics=METRICS))
    (observation,) = history.all_observations()
    assert observation.running == (state in ("RUNNING", "PAUSED"))


def test_refused_trials_and_unknown_costs_give_no_observation() -> None:
    history = make()
    history.update(replace(RUNNING, ray_id=None))
    assert history.all_observations() == []
    unmeasured = make(latency=None)
    unmeasured.update(RUNNING)
    assert unmeasured.all_observations() == []


def test_order_is_that_of_numbers() -> None:
    history = make()
    for number, trial_id in enumerate(("10000", "9999", "0002")):
        config = CONFIG.replace(seed=number)
        history.update(replace(RUNNING, trial_id=trial_id, config=config, params={"n": number}))
    assert [each.params["n"] for each in history.all_observations()] == [2, 1, 0]


def test_what_learns_nothing_is_known_at_the_level_of_the_commonest_class() -> None:
    history = make()
    history.commonest_miou = 0.07
    rung = RungDecision("a", 3, 0, (100.0, -0.4, 3.0), True)
    history.update(
        replace(RUNNING, state="FAIL", reason="not learning: mIoU 0.1", rung_decisions=(rung,))
    )
    (observation,) = history.all_observations()
    assert (observation.final, observation.failed, observation.running) == (0.07, True, False)
    assert observation.partial == {}  # no line from a rung to an end is fitted through it
