"""Limits and what a space can reach."""

from pathlib import Path
from typing import Any, cast

import optuna
import pytest
from factories import make_config

from search import cluster
from search.budget import Budget, Costs, OverBudget, least
from search.progress import Progress
from search.study import Study
from spaces import NamedSpace, load_space, space_names
from trainables.config import RunConfig, TrialConfig
from trainables.models.unet import UNetConfig
from trainables.quant.allocation import CHOICES, Allocation, least_sensitive
from trainables.quant.prepare import quantizable_names
from trainables.recipes import Qat
from trainables.size import count_macs, predict_size_bytes


def test_costs_at_a_limit_are_within_it() -> None:
    budget = Budget(size_bytes=1000, macs=50)
    assert budget.complaint(Costs(size_bytes=1000, macs=50, latency_ms=9)) == ""
    assert budget.excess(Costs(size_bytes=1000, macs=25)) == pytest.approx(
        {"size_bytes": 0, "macs": -0.6931}, abs=1e-4
    )


def test_a_complaint_names_cost_and_limit() -> None:
    budget = Budget(size_bytes=1000, latency_ms=2.5)
    assert budget.complaint(Costs(size_bytes=1200, macs=1, latency_ms=3.25)) == (
        "size_bytes 1,200, the limit is 1,000, latency_ms 3.25, the limit is 2.5"
    )


@pytest.mark.parametrize("name", [name for name in space_names() if name != "mixed"])
def test_the_least_of_a_space_is_at_its_corner(name: str) -> None:
    named = load_space(name)

    def size(config: TrialConfig) -> float:
        return predict_size_bytes(config, 5)

    smallest = least(named.space, size, named.known_settings)
    assert smallest.student.width == 4
    if smallest.quantizer:
        assert smallest.quantizer.weight_bits == 2
    else:
        assert smallest.student.depth == (2 if name == "supervised" else 4)
    cheapest = least(
        named.space, lambda config: count_macs(config.student, 5, 32, 32), named.known_settings
    )
    assert cheapest.student.width == 4


def test_a_budget_is_checked_again_with_the_bits_that_layers_really_get(
    blocks_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = UNetConfig(width=4, depth=2)

    def space(trial: optuna.Trial) -> TrialConfig:
        trial.suggest_float("recipe.quantizer.weight_bits", 6, 6)
        return TrialConfig(student=student, recipe=Qat(quantizer=Allocation(weight_bits=6)))

    monkeypatch.setattr(
        "search.foresight.load_space", lambda name: NamedSpace(name, "six bits", space, ())
    )
    config = make_config(tmp_path, blocks_folder, space="six", max_size_bytes=5000)
    study = Study(config, resumed=False).open()  # 2 bits would be within the budget
    names = quantizable_names(student.build(5))
    gains = {name: {bits: 1 / bits for bits in CHOICES} for name in names}
    kept = tmp_path / "sensitivity.json"
    kept.write_text(least_sensitive(names).replace(weights=gains).model_dump_json())

    def fake(*args: Any, **kwargs: Any) -> Path:
        return kept

    run = RunConfig(data=study.data.path, artifacts=study.store.root)
    with pytest.raises(OverBudget, match="its cheapest has size_bytes"):
        study.measure_sensitivities(run, Progress(config, [], 1), cast(cluster.Remote, fake))
    assert len(study.foresight.probe()) > 0
    study.foresight.sensitivities = {}  # had no start learned anything, it could still be reported
    assert study.foresight.probe() == []
    assert study.foresight.span().tolist() == [[1.0], [1.0]]
