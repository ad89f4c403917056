"""Predicted costs of a study's space."""

from pathlib import Path

from factories import make_config
from foreign_networks import traced_student

from search.study.cost_model import CostModel
from trainables.config import TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.recipes.configs import Original


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


def test_the_default_teacher_is_the_network_that_is_compressed(tmp_path: Path) -> None:
    student = traced_student()
    config = make_config(tmp_path, "shapes", space="qkd", students=(student,))
    own = CostModel(config, 5, (32, 32), ArtifactStore(tmp_path)).own_teacher_config()
    assert own.student == student
    assert own.recipe == Original()
    plain = make_config(tmp_path, "shapes", space="qkd")
    teacher = CostModel(plain, 5, (32, 32), ArtifactStore(tmp_path)).own_teacher_config()
    assert teacher.recipe.name == "supervised"
