"""The defaults of a study, which are the same for all its trials."""

import pytest

from trainables.config import TrialConfig
from trainables.data.configs import AUGMENTATIONS, Augmentation
from trainables.losses.configs import LabelLossConfig
from trainables.models.configs import UNetConfig
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import Distill, Ptq, Qat, QatDistill, Recipe, Supervised
from trainables.training.defaults import Defaults, augmentation_for, defaults_for

STUDENT = UNetConfig(width=12, depth=3)
FIXED = Defaults(
    image_size=64,
    num_steps=90,
    least_steps=20,
    batch_size=5,
    teacher=UNetConfig(width=24),
    teacher_steps=110,
    augmentation=Augmentation(min_scale=0.7, color=0.3),
    label_loss=LabelLossConfig(class_weights="enet"),
    ema_decay=0.9,
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
        label_loss=FIXED.label_loss,
        augmentation=FIXED.augmentation,
        ema_decay=0.9,
        num_epochs=num_epochs,
        batch_size=5,
        seed=42,
    )


def test_what_is_complete_stays_as_it_is() -> None:
    once = FIXED.complete(TrialConfig(recipe=Qat()), num_epochs=7, seed=42)
    assert FIXED.complete(once, num_epochs=7, seed=42) == once


def test_a_study_s_own_teacher_is_wider_than_students_and_the_same_for_all_seeds() -> None:
    teacher = FIXED.default_teacher_config(num_epochs=11)
    assert (teacher.student, teacher.num_epochs, teacher.seed) == (UNetConfig(width=24), 11, 0)
    assert (teacher.batch_size, teacher.augmentation) == (5, FIXED.augmentation)
    assert (teacher.label_loss, teacher.ema_decay) == (FIXED.label_loss, 0.9)
    assert isinstance(teacher.recipe, Supervised)


def test_defaults_go_with_data_and_device() -> None:
    on_gpu, on_cpu = defaults_for("voc", "cuda"), defaults_for("voc", "cpu")
    assert defaults_for("shapes", "cuda") == defaults_for("shapes", "cpu")
    assert (on_gpu.image_size, on_gpu.num_steps, on_gpu.batch_size) == (512, 8000, 16)
    assert (on_cpu.image_size, on_cpu.num_steps, on_cpu.batch_size) == (160, 2000, 8)
    assert on_cpu.label_loss == on_gpu.label_loss == LabelLossConfig(class_weights="sqrt")


@pytest.mark.parametrize(
    ("num_images", "num_epochs"), [(3, 90), (5, 90), (9, 90), (10, 45), (50, 9), (4500, 1)]
)
def test_small_data_get_as_many_steps_as_large_data(num_images: int, num_epochs: int) -> None:
    assert FIXED.num_epochs(90, num_images) == num_epochs


@pytest.mark.parametrize(
    ("num_images", "num_classes", "num_steps"),
    [(100, 3, 800), (240, 3, 800), (600, 3, 900), (367, 11, 2000), (10_000, 2, 2000)],
)
def test_few_images_of_few_classes_are_trained_on_for_fewer_steps_on_a_cpu(
    num_images: int, num_classes: int, num_steps: int
) -> None:
    assert defaults_for("voc", "cpu").steps_for(num_images, num_classes) == num_steps
    assert defaults_for("voc", "cuda").steps_for(num_images, num_classes) == 8000
    assert defaults_for("shapes", "cpu").steps_for(num_images, num_classes) == 256


def test_augmentation_grows_with_length() -> None:
    names = [augmentation_for(num_steps) for num_steps in (1, 1999, 2000, 19_999, 20_000)]
    assert names == ["flip", "flip", "scale", "scale", "strong"]
    flip, scale, strong = (AUGMENTATIONS[name] for name in ("flip", "scale", "strong"))
    assert (flip.min_scale, flip.max_scale, flip.color) == (1, 1, 0)
    assert flip.max_scale < scale.max_scale < strong.max_scale
    assert flip.color < scale.color <= strong.color
