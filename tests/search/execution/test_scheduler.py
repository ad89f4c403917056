"""The scheduler by itself, as other people's Tune code uses it."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.tune.schedulers import TrialScheduler

from search.execution.scheduler import ParetoHalving

STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE


def result(epoch: int, miou: float, size_bytes: float) -> dict[str, Any]:
    return {"training_iteration": epoch, "miou": miou, "size_bytes": size_bytes}


def answer(scheduler: ParetoHalving, trial: str, *values: Any) -> str:
    asked: Any = SimpleNamespace(trial_id=trial)
    return scheduler.on_trial_result(None, asked, result(*values))


def test_directions_are_those_of_the_objectives() -> None:
    scheduler = ParetoHalving(
        {"miou": "max", "size_bytes": "min"}, max_epochs=9, confidence_width=0
    )
    assert answer(scheduler, "good", 1, 0.5, 100) == CONTINUE
    assert answer(scheduler, "larger", 1, 0.5, 200) == STOP
    assert answer(scheduler, "worse", 1, 0.4, 100) == STOP
    assert answer(scheduler, "smaller", 1, 0.1, 10) == CONTINUE
    assert answer(scheduler, "better", 1, 0.9, 1000) == CONTINUE


def test_no_decision_between_rungs_or_in_the_grace_period() -> None:
    scheduler = ParetoHalving({"loss": "min"}, max_epochs=27, grace_epochs=2, confidence_width=0)
    decisions = {
        epoch: [
            scheduler.on_trial_result(
                None,
                cast(Any, SimpleNamespace(trial_id=trial)),
                {"training_iteration": epoch, "loss": float(number)},
            )
            for number, trial in enumerate("abcdef")
        ]
        for epoch in (1, 2, 3, 4)
    }
    assert decisions[3][0] == CONTINUE
    assert STOP in decisions[3]
    assert all(STOP not in decisions[epoch] for epoch in (1, 2, 4))


def test_decisions_are_kept_and_taken_back() -> None:
    kept: list[Any] = []
    objectives: Any = {"miou": "max", "size_bytes": "min"}
    live = ParetoHalving(objectives, max_epochs=9, confidence_width=0, keep=kept.append)
    answer(live, "a", 1, 0.5, 100)
    answer(live, "b", 1, 0.4, 200)
    assert [decision.promoted for decision in kept] == [True, False]
    again = ParetoHalving(objectives, max_epochs=9, confidence_width=0)
    again.halving.replay(kept)
    assert answer(again, "c", 1, 0.45, 150) == answer(live, "c", 1, 0.45, 150) == STOP


def test_objectives_that_are_absent_are_named() -> None:
    scheduler = ParetoHalving({"latency": "min"}, max_epochs=9)
    with pytest.raises(ValueError, match="must report all objectives, but latency is not among"):
        answer(scheduler, "a", 1, 0.5, 100)
    with pytest.raises(ValueError, match="each min or max, but got"):
        ParetoHalving({"miou": "maximum"}, max_epochs=9)  # type: ignore[dict-item]


def test_finished_trials_determine_the_confidence_width() -> None:
    scheduler = ParetoHalving({"miou": "max", "size_bytes": "min"}, max_epochs=9)
    for number in range(4):
        asked: Any = SimpleNamespace(trial_id=str(number))
        assert answer(scheduler, str(number), 1, 0.1 * number, 100) == CONTINUE
        scheduler.on_trial_complete(None, asked, result(9, 0.1 * number + 0.4, 100))
    assert answer(scheduler, "low", 1, 0.1, 100) == STOP
    assert answer(scheduler, "high", 1, 0.3, 100) == CONTINUE
