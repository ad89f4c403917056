"""How a search is summed up."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import optuna
import pytest
from factories import make_metrics
from PIL import Image

from search.analysis.diagnostics import (
    MIN_TRIALS,
    compute_diagnostics,
    hypervolume_over_time,
    unfinished_share,
)
from search.analysis.diagnostics_plot import draw_diagnostics
from search.core.objectives import MIOU_AND_SIZE
from search.core.pareto import hypervolume
from search.core.record import Record, RecordState
from trainables.config import TrialConfig
from trainables.recipes.configs import Supervised

SPAN = np.array([[100.0], [10_000.0]])


def record(
    number: int, miou: float, size: int, seconds: float, ended: int, state: RecordState = "COMPLETE"
) -> Record:
    metrics = make_metrics(miou, size if state == "COMPLETE" else None, 1, seconds)
    at = datetime(2026, 1, 1) + timedelta(minutes=ended)
    config = TrialConfig(recipe=Supervised())
    return Record(f"{number:04d}", state, "", config, metrics, ended_at=at)


RECORDS = [
    record(0, 0.4, 1000, 10, ended=3),
    record(1, 0.3, 100, 20, ended=1),
    record(2, 0.9, 100, 5, ended=2, state="PRUNED"),
]


def test_steps_follow_the_clock_and_count_all_seconds() -> None:
    first, second = hypervolume_over_time(RECORDS, SPAN, MIOU_AND_SIZE)
    assert (first.device_seconds, second.device_seconds) == (20, 35)
    assert first.hypervolume == pytest.approx(0.3)
    assert second.hypervolume == pytest.approx((0.3 * 1.1 + 0.1 * 0.6) / 1.1)
    assert second.hypervolume == pytest.approx(hypervolume(RECORDS, SPAN, MIOU_AND_SIZE))
    assert first.time_ms < second.time_ms


def test_more_trials_leave_earlier_steps_as_they_are() -> None:
    longer = [*RECORDS, record(3, 0.8, 50_000, 10, ended=9)]
    assert hypervolume_over_time(longer, SPAN, MIOU_AND_SIZE)[:2] == hypervolume_over_time(
        RECORDS, SPAN, MIOU_AND_SIZE
    )


def test_seconds_of_what_did_not_finish() -> None:
    assert unfinished_share(RECORDS) == pytest.approx(5 / 35)
    assert unfinished_share([]) == 0


def study(count: int) -> optuna.Study:
    made = optuna.create_study(directions=["maximize", "minimize"])
    for number in range(count):
        trial = made.ask()
        width = trial.suggest_int("student.width", 2, 20)
        rate = trial.suggest_float("optimizer.rate", 0, 1)
        made.tell(trial, [0.5 + 0.4 * rate + 0.001 * number, 100.0 * width])
    return made


def test_importances_name_what_an_objective_depends_on(tmp_path: Path) -> None:
    diagnostics = compute_diagnostics(RECORDS, study(30), SPAN, MIOU_AND_SIZE)
    assert next(iter(diagnostics.importances["miou"])) == "optimizer.rate"
    assert next(iter(diagnostics.importances["size_bytes"])) == "student.width"
    assert diagnostics.metrics["importance.size_bytes.student.width"] > 0.8
    draw_diagnostics(diagnostics, tmp_path, "a study")
    with Image.open(tmp_path / "search.png") as image:
        assert image.width > 1000


def test_a_search_without_results_is_drawn_too(tmp_path: Path) -> None:
    diagnostics = compute_diagnostics([], study(MIN_TRIALS - 1), SPAN, MIOU_AND_SIZE)
    assert (diagnostics.steps, diagnostics.importances) == ([], {})
    draw_diagnostics(diagnostics, tmp_path, "nothing")
    assert (tmp_path / "search.png").is_file()


def test_what_does_not_vary_depends_on_nothing() -> None:
    same = optuna.create_study(directions=["maximize", "minimize"])
    for _ in range(MIN_TRIALS):
        trial = same.ask()
        trial.suggest_float("x", 0, 1)
        same.tell(trial, [0.5, 100.0])
    assert compute_diagnostics([], same, SPAN, MIOU_AND_SIZE).importances == {
        "miou": {},
        "size_bytes": {},
    }
