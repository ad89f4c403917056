"""The defaults of a study, which are the same for all its trials."""

import pytest

from trainables.config import TrialConfig
from trainables.data.configs import Augmentation
from trainables.models.configs import UNetConfig
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import Distill, Ptq, Qat, QatDistill, Recipe, Supervised
from trainables.training.defaults import Defaults, defaults_for

STUDENT = UNetConfig(width=12, depth=3)
FIXED = Defaults(
    image_size=64,
    num_epochs=9,
    batch_size=5,
    augmentation=Augmentation(min_scale=0.7, color=0.3),
    teacher=UNetConfig(width=24),
    teacher_epochs=11,
)


@pytest.mark.parametrize(
    ("recipe", "num_epochs", "start_epochs"),
    [
        (Supervised(), 7, None),
        (Distill(), 7, None),
        (Qat(), 7, 14),
        (QatDistill(), 7, 14),
        (Ptq(), 1, 14),
        (Qat(start_epochs=3), 7, 3),
        (Ptq(start_epochs=3, quantizer=Lsq(weight_bits=3)), 1, 3),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_trial_is_completed_by_what_is_the_same_for_all(
    recipe: Recipe, num_epochs: int, start_epochs: int | None
) -> None:
    asked = TrialConfig(student=STUDENT, recipe=recipe, num_epochs=1, batch_size=2, seed=1)
    completed = FIXED.complete(asked, num_epochs=7, seed=42)
    if start_epochs is not None:
        recipe = recipe.replace(start_epochs=start_epochs)
    assert completed == TrialConfig(
        student=STUDENT,
        recipe=recipe,
        augmentation=FIXED.augmentation,
        num_epochs=num_epochs,
        batch_size=5,
        seed=42,
    )


def test_what_is_complete_stays_as_it_is() -> None:
    once = FIXED.complete(TrialConfig(recipe=Qat()), num_epochs=7, seed=42)
    assert FIXED.complete(once, num_epochs=7, seed=42) == once


def test_a_study_s_own_teacher_is_wider_than_students_and_the_same_for_all_seeds() -> None:
    teacher = FIXED.default_teacher_config()
    assert (teacher.student, teacher.num_epochs, teacher.seed) == (UNetConfig(width=24), 11, 0)
    assert (teacher.batch_size, teacher.augmentation) == (5, FIXED.augmentation)
    assert isinstance(teacher.recipe, Supervised)


def test_defaults_go_with_data_and_device() -> None:
    on_gpu, on_cpu = defaults_for("voc", "cuda"), defaults_for("voc", "cpu")
    assert defaults_for("shapes", "cuda") == defaults_for("shapes", "cpu")
    assert (on_gpu.image_size, on_gpu.num_epochs, on_gpu.batch_size) == (512, 60, 16)
    assert (on_cpu.image_size, on_cpu.num_epochs, on_cpu.batch_size) == (160, 20, 8)
    assert on_gpu.augmentation != on_cpu.augmentation == defaults_for("shapes", "cpu").augmentation
