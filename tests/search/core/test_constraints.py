"""Limits and what a space can reach."""

from functools import partial
from pathlib import Path
from typing import cast

import optuna
import pytest
from factories import make_config
from study_factories import open_new_study

from search.algorithms.candidates import find_cheapest
from search.core.constraints import Budget, Costs, OverBudget
from search.execution.session import RemoteRunner
from search.study.prerequisites import measure_sensitivities
from search.tracking.console import ConsoleProgress
from spaces import NamedSpace, load_space, space_names
from trainables.config import ExecutionConfig, TrialConfig
from trainables.models.configs import UNetConfig
from trainables.quantization.mixed_precision import CHOICES, uniform_minimum_sensitivity
from trainables.quantization.prepare import quantizable_names
from trainables.quantization.quantizers.configs import MixedPrecision
from trainables.recipes.configs import Qat
from trainables.training.cost import count_macs, predict_size_bytes


def test_costs_at_a_limit_are_within_it() -> None:
    budget = Budget(size_bytes=1000, macs=50)
    assert budget.describe_violations(Costs(size_bytes=1000, macs=50, latency_ms=9)) == ""
    assert budget.excess(Costs(size_bytes=1000, macs=25)) == pytest.approx(
        {"size_bytes": 0, "macs": -0.6931}, abs=1e-4
    )


def test_memory_is_a_limit_like_the_others() -> None:
    budget = Budget(ram_bytes=1000)
    assert budget.describe_violations(Costs(size_bytes=9, macs=9, ram_bytes=1000)) == ""
    assert budget.describe_violations(Costs(size_bytes=9, macs=9, ram_bytes=1001)) == (
        "activations of 1,001 bytes, the limit is 1,000 bytes"
    )


def test_a_violation_names_cost_and_limit() -> None:
    budget = Budget(size_bytes=1000, latency_ms=2.5)
    assert budget.describe_violations(Costs(size_bytes=1200, macs=1, latency_ms=3.25)) == (
        "a size of 1,200 bytes, the limit is 1,000 bytes, a latency of 3.25 ms, the limit is 2.5 ms"
    )


@pytest.mark.parametrize(
    "name", [name for name in space_names() if name not in ("mixed", "mixed_qkd", "architecture")]
)
def test_the_least_of_a_space_is_at_its_corner(name: str) -> None:
    named = load_space(name)

    def size(config: TrialConfig) -> float:
        return predict_size_bytes(config, 5)

    smallest = find_cheapest(named.space, size, named.points_to_evaluate)
    assert smallest.student.width == 4
    if smallest.quantizer:
        assert smallest.quantizer.weight_bits == 2
    else:
        assert smallest.student.depth == (2 if name == "supervised" else 4)
    cheapest = find_cheapest(
        named.space, lambda config: count_macs(config.student, 5, 32, 32), named.points_to_evaluate
    )
    assert cheapest.student.width == 4


def test_a_budget_is_checked_again_with_the_bits_that_layers_really_get(
    blocks_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = UNetConfig(width=4, depth=2)

    def space(trial: optuna.Trial) -> TrialConfig:
        trial.suggest_float("recipe.quantizer.weight_bits", 6, 6)
        return TrialConfig(student=student, recipe=Qat(quantizer=MixedPrecision(weight_bits=6)))

    monkeypatch.setattr(
        "search.study.cost_model.load_space", lambda name: NamedSpace(name, "six bits", space, ())
    )
    config = make_config(
        tmp_path, blocks_folder, space="six", quantizer="codebook", max_size_bytes=5000
    )
    study = open_new_study(config)  # 2 bits would be within the budget
    names = quantizable_names(student.build(5))
    gains = {name: {bits: 1 / bits for bits in CHOICES} for name in names}
    kept = tmp_path / "sensitivity.json"
    kept.write_text(uniform_minimum_sensitivity(names).replace(weights=gains).model_dump_json())

    def fake(run: ExecutionConfig, prepare: partial[Path]) -> Path:
        assert prepare.keywords == {"kind": "codebook"}
        return kept

    run = ExecutionConfig(data=study.data.path, artifacts=study.store.root)
    progress, remote = ConsoleProgress(config, [], 1), cast(RemoteRunner, fake)
    with pytest.raises(OverBudget, match="its cheapest has a size of"):
        measure_sensitivities(study, progress, remote, run, lambda trainings, on_end: None)
    assert len(study.cost_model.completed_samples()) > 0
    study.cost_model.sensitivities = {}  # as if all pretraining had failed
    assert study.cost_model.completed_samples() == []
