"""Configurations are complete, strict, and named by their content."""

import json
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import ValidationError

from trainables.config import TrialConfig
from trainables.losses.configs import Pixelwise, Requirement
from trainables.models.configs import UNetConfig
from trainables.quantization.bits import LayerBits
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import Distill, Qat, QatDistill, Recipe, Supervised

STORED = Path(__file__).with_name("trial_configs.json")
"""By their digests, configurations of every recipe as version 0.2.0 wrote them."""
RECIPES: list[Recipe] = [Supervised(), Distill(), Qat(), QatDistill(start=Distill())]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_json_round_trip(recipe: Recipe) -> None:
    config = TrialConfig(recipe=recipe)
    assert TrialConfig.model_validate_json(config.model_dump_json()) == config
    assert (
        TrialConfig.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config
    )


def test_configurations_of_version_0_2_keep_their_digests() -> None:
    for digest, content in json.loads(STORED.read_text()).items():
        config = TrialConfig.model_validate(content)
        assert config.digest() == digest
        assert config.model_dump(mode="json") == content


def test_digest_names_the_content() -> None:
    first, same = TrialConfig(recipe=Qat()), TrialConfig(recipe=Qat())
    assert first.digest() == same.digest()
    assert first.digest() != first.replace(seed=1).digest()


def test_leaves_are_dotted_paths() -> None:
    layers = {"classifier": LayerBits(weight_bits=5, activation_bits=8)}
    leaves = TrialConfig(recipe=Qat(quantizer=Lsq(layers=layers))).flatten()
    assert leaves["recipe.name"] == "qat"
    assert leaves["recipe.optimizer.learning_rate"] == 1e-3
    assert leaves["recipe.quantizer.layers.classifier.weight_bits"] == 5
    assert leaves["student.width"] == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_epochs": 0}, "greater than or equal to 1"),
        ({"batch_size": 1}, "greater than or equal to 2"),
        ({"unknown": 1}, "Extra inputs"),
        ({"student": {"width": 0}}, "greater than or equal to 1"),
        ({"recipe": {"name": "qat", "losses": {}}}, "Extra inputs"),
        (
            {"recipe": {"name": "supervised", "optimizer": {"learning_rate": float("nan")}}},
            "finite",
        ),
    ],
)
def test_nonsense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrialConfig(recipe=Supervised()).replace(**change)


def test_phases_fill_the_training() -> None:
    assert QatDistill(self_study=0.25, co_study=0.25).tutoring == pytest.approx(0.5)
    assert QatDistill(self_study=0.3, co_study=0.7).tutoring == 0
    with pytest.raises(ValidationError, match="self_study \\+ co_study <= 1 must hold"):
        QatDistill(self_study=0.6, co_study=0.6)


def test_who_needs_a_teacher() -> None:
    needs = {recipe.name: TrialConfig(recipe=recipe).needs_teacher for recipe in RECIPES}
    assert needs == {"supervised": False, "distill": True, "qat": False, "qat_distill": True}
    assert TrialConfig(recipe=Qat(start=Distill()), student=UNetConfig()).needs_teacher


class PixelwiseLive(Pixelwise):
    name: Literal["pixelwise_live"] = "pixelwise_live"  # type: ignore[assignment]
    requires: ClassVar[Requirement] = "live"


@pytest.mark.parametrize("of_start", [True, False])
def test_terms_of_one_name_do_not_hide_each_other(of_start: bool) -> None:
    kept, live = {"same": Pixelwise()}, {"same": PixelwiseLive()}
    start, own = (live, kept) if of_start else (kept, live)
    config = TrialConfig(recipe=QatDistill(start=Distill(losses=start), losses=own))
    assert config.needs_live_teacher == "the distillation term same"
    of_kept = QatDistill(start=Distill(losses=kept), losses=kept)
    assert config.replace(recipe=of_kept).needs_live_teacher is None
    assert config.replace(recipe=of_kept.replace(co_study=0.1)).needs_live_teacher == "co-study"
