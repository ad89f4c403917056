"""What is remembered of trials: observations for the sampler, digests against repeats."""

from dataclasses import replace

import pytest
from factories import make_metrics
from optuna.distributions import IntDistribution

from search.budget import Costs
from search.halving import Arrival
from search.memory import Memory
from search.objectives import named_objectives
from search.record import Record, State
from trainables.config import TrialConfig
from trainables.recipes import Supervised

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


def make(latency: float | None = 3.0) -> Memory:
    objectives = named_objectives(("size", "miou", "latency"))
    return Memory(objectives, lambda config: Costs(size_bytes=100, macs=7, latency_ms=latency))


def test_a_trial_is_followed_from_its_launch_to_its_end() -> None:
    memory = make()
    memory.learn(RUNNING)
    (observation,) = memory.known()
    assert (observation.running, observation.final, observation.partial) == (True, None, {})
    assert observation.costs == (100.0, 3.0)
    rung = Arrival("a", 3, 0, (100.0, -0.4, 3.0), True)
    end = Arrival("a", 9, 1, (100.0, -0.5, 3.0), True)
    memory.learn(replace(RUNNING, arrivals=(rung,)))
    assert memory.known()[0].partial == {3: 0.4}
    memory.learn(replace(RUNNING, state="COMPLETE", metrics=METRICS, arrivals=(rung, end)))
    (observation,) = memory.known()
    assert (observation.running, observation.final) == (False, 0.5)
    assert observation.partial == {3: 0.4}
    assert memory.trained == {CONFIG.digest(): "0007"}


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
    memory = make()
    memory.learn(RUNNING)
    memory.learn(record)
    assert (len(memory.observations), len(memory.trained)) == (num_observations, num_trained)


@pytest.mark.parametrize("state", ["RUNNING", "PAUSED", "PRUNED", "COMPLETE", "FAIL"])
def test_what_is_on_its_way_or_will_go_on_counts_as_running(state: State) -> None:
    memory = make()
    memory.learn(replace(RUNNING, state=state, reason="not learning: mIoU 0.1", metrics=METRICS))
    (observation,) = memory.known()
    assert observation.running == (state in ("RUNNING", "PAUSED"))


def test_what_was_refused_or_has_unknown_costs_teaches_nothing() -> None:
    memory = make()
    memory.learn(replace(RUNNING, ray_id=None))
    assert memory.known() == []
    unmeasured = make(latency=None)
    unmeasured.learn(RUNNING)
    assert unmeasured.known() == []


def test_order_is_that_of_numbers() -> None:
    memory = make()
    for number, trial_id in enumerate(("10000", "9999", "0002")):
        config = CONFIG.replace(seed=number)
        memory.learn(replace(RUNNING, trial_id=trial_id, config=config, params={"n": number}))
    assert [each.params["n"] for each in memory.known()] == [2, 1, 0]


def test_what_learns_nothing_is_known_at_the_level_of_the_commonest_class() -> None:
    memory = make()
    memory.commonest_miou = 0.07
    rung = Arrival("a", 3, 0, (100.0, -0.4, 3.0), True)
    memory.learn(replace(RUNNING, state="FAIL", reason="not learning: mIoU 0.1", arrivals=(rung,)))
    (observation,) = memory.known()
    assert (observation.final, observation.failed, observation.running) == (0.07, True, False)
    assert observation.partial == {}  # no line from a rung to an end is fitted through it
