"""Predicted costs of a study's space."""

from dataclasses import replace
from pathlib import Path

import pytest
from factories import make_config
from foreign_networks import traced_student

from search.study.cost_model import CostModel, distinct_starts, shared_starts
from trainables.config import TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.data.configs import AUGMENTATIONS
from trainables.losses.configs import LabelLossConfig
from trainables.models.configs import UNetConfig
from trainables.models.student_list import parse_students
from trainables.quantization.quantizers.base import Quantizer
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import Original, Qat, Supervised


def test_each_seed_draws_its_own_configurations(tmp_path: Path) -> None:
    def drawn(seed: int) -> list[TrialConfig]:
        config = make_config(tmp_path, "shapes", space="qat", seed=seed)
        return CostModel(config, 5, (32, 32), ArtifactStore(tmp_path)).sampled_configs()

    assert drawn(1) == drawn(1)
    assert len(drawn(1)) == len(drawn(2))
    assert drawn(1) != drawn(2)


def test_calibration_is_what_the_study_says(tmp_path: Path) -> None:
    def found(space: str) -> list[TrialConfig]:
        config = make_config(tmp_path, "shapes", space=space, calibration=("adaround",))
        return CostModel(config, 5, (32, 32), ArtifactStore(tmp_path)).completed_samples()

    for space in ("ptq", "qat", "qkd"):
        recipes = [config.recipe.quantized for config in found(space)]
        assert {recipe.calibration for recipe in recipes if recipe} == {("adaround",)}
    assert all(config.recipe.quantized is None for config in found("supervised"))


@pytest.mark.parametrize("space", ["ptq", "qkd", "mixed", "mixed_qkd"])
def test_the_quantizer_is_what_the_study_says(space: str, tmp_path: Path) -> None:
    def quantizers(**fields: object) -> list[Quantizer]:
        config = make_config(tmp_path, "shapes", space=space, **fields)
        found = CostModel(config, 5, (32, 32), ArtifactStore(tmp_path)).completed_samples()
        recipes = [trial.recipe.quantized for trial in found]
        return [r.quantizer.quantizer for r in recipes if r and r.quantizer.quantizer]

    asked, plain = quantizers(quantizer="pact"), quantizers()
    assert plain
    assert {quantizer.name for quantizer in asked} == {"pact"}
    assert [quantizer.of_kind("lsq") for quantizer in asked] == plain


def test_the_default_teacher_is_the_network_that_is_compressed(tmp_path: Path) -> None:
    student = traced_student()
    config = make_config(tmp_path, "shapes", space="qkd", students=(student,))
    own = CostModel(config, 5, (32, 32), ArtifactStore(tmp_path)).own_teacher_config(7)
    assert own.student == student
    assert own.recipe == Original()
    pruned = config.replace(students=(student.replace(keep=0.5),))
    of_pruned = CostModel(pruned, 5, (32, 32), ArtifactStore(tmp_path)).own_teacher_config(7)
    assert of_pruned == own
    plain = make_config(tmp_path, "shapes", space="qkd")
    teacher = CostModel(plain, 5, (32, 32), ArtifactStore(tmp_path)).own_teacher_config(7)
    assert (teacher.recipe.name, teacher.num_epochs) == ("supervised", 7)
    (named,) = parse_students("unet_mobilenet_v1")
    other = config.replace(teacher=named)
    of_named = CostModel(other, 5, (32, 32), ArtifactStore(tmp_path)).own_teacher_config(7)
    assert (of_named.student, of_named.num_epochs) == (named, 7)


def test_each_share_of_the_channels_has_a_start_and_costs_of_its_own(tmp_path: Path) -> None:
    config = make_config(
        tmp_path, "shapes", space="qkd", students=(traced_student(),), compress="n", prune=(1, 0.5)
    )
    model = CostModel(config, 5, (32, 32), ArtifactStore(tmp_path))
    starts = {
        start.student.describe(): start for start in distinct_starts(model.completed_samples())
    }
    assert {name: start.recipe.name for name, start in starts.items()} == {
        "foreign": "original",
        "foreign 0.5": "distill",
    }
    costs = {name: model.predict_cost(start) for name, start in starts.items()}
    assert costs["foreign 0.5"].size_bytes < costs["foreign"].size_bytes
    assert costs["foreign 0.5"].macs < costs["foreign"].macs / 2


def test_losses_augmentation_and_averages_are_those_of_the_study(tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        "shapes",
        space="qkd",
        class_weights="median",
        overlap_loss="dice",
        augmentation="strong",
        ema_decay=0.9,
    )
    model = CostModel(config, 5, (32, 32), ArtifactStore(tmp_path))
    for trial in [*model.completed_samples(), model.own_teacher_config(7)]:
        for stage in (trial, trial.start):
            if stage is not None:
                assert stage.label_loss == LabelLossConfig(class_weights="median", overlap="dice")
                assert (stage.augmentation, stage.ema_decay) == (AUGMENTATIONS["strong"], 0.9)


def test_shared_starts_are_those_of_several_configurations_the_commonest_first() -> None:
    def config(width: int, bit_width: int) -> TrialConfig:
        bits = Lsq(weight_bits=bit_width, activation_bits=8)
        return TrialConfig(student=UNetConfig(width=width), recipe=Qat(quantizer=bits))

    plain, alone = TrialConfig(recipe=Supervised()), config(2, 8)
    configs = [plain, alone, config(4, 2), config(4, 8), config(8, 2), config(8, 4), config(8, 8)]
    starts = [configs[-1].start, configs[2].start]
    assert shared_starts([*configs, plain]) == starts


@pytest.mark.parametrize("space", ["kd", "qkd"])
def test_a_teacher_takes_a_quarter_of_the_computation(space: str, tmp_path: Path) -> None:
    def affordable(samples: int, **changes: object) -> int:
        config = make_config(tmp_path, "shapes", space=space, samples=samples, epochs=9, **changes)
        model = CostModel(config, 5, (32, 32), ArtifactStore(tmp_path))
        model.defaults = replace(model.defaults, teacher_steps=10**9)
        return model.affordable_teacher_epochs(num_images=8)

    assert affordable(1) == 5  # no teacher is trained for less than half as long as its students
    many = affordable(400)
    config = make_config(tmp_path, "shapes", space=space, samples=400, epochs=9)
    model = CostModel(config, 5, (32, 32), ArtifactStore(tmp_path))
    configs = model.completed_samples()
    starts = distinct_starts(configs)
    macs = sum(trial.num_epochs * model.macs(trial) for trial in configs) / len(configs) * 400
    macs += sum(start.num_epochs * model.macs(start) for start in starts)
    teacher = many * model.macs(model.own_teacher_config(1))
    assert teacher / (teacher + macs) == pytest.approx(0.25, rel=0.01)
    assert affordable(400, scheduler="halving") < many
    assert model.affordable_teacher_epochs(num_images=64) == 96  # the default, 768 steps
