"""Default image sizes, lengths and batch sizes for a data set and the hardware."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from trainables.config import TrialConfig
from trainables.data.configs import AUGMENTATIONS, Augmentation, AugmentationName
from trainables.losses.configs import LabelLossConfig
from trainables.models.configs import LARGE_TEACHER, SMALL_TEACHER, StudentConfig
from trainables.recipes.configs import RECOMMENDED, AdamW, Original, Supervised

PRETRAINING_LENGTH = 2
"""Epochs of the shared pretraining, as a multiple of a trial's epochs."""
FLIP_ONLY = AUGMENTATIONS["flip"]
SCALED_FROM, STRONG_FROM = 2_000, 20_000
"""Optimizer steps from which images are scaled and recoloured, and from which they are more so:
shorter trainings do better without (37.6 against 28.9 mIoU after 540 steps on CamVid)."""
TEACHER_RATE = 2e-3
BALANCED = LabelLossConfig(class_weights="sqrt")


@dataclass(frozen=True)
class Defaults:
    """What a study has where its user does not say.

    Image size in pixels (longest side), optimizer steps of one full training, images per step,
    and the teacher that is trained, with the most steps of its training; `teacher_is_named` if
    the user chose it. A training on few images of few classes has fewer steps, but not fewer
    than `least_steps`.
    """

    image_size: int
    num_steps: int
    least_steps: int
    batch_size: int
    teacher: StudentConfig
    teacher_steps: int
    teacher_is_named: bool = False
    augmentation: Augmentation = FLIP_ONLY
    label_loss: LabelLossConfig = BALANCED
    ema_decay: float = 0.0

    def num_steps_of(self, num_epochs: int, num_images: int) -> int:
        """The optimizer steps of so many epochs over so many training images."""
        return num_epochs * max(1, num_images // self.batch_size)

    def steps_for(self, num_images: int, num_classes: int) -> int:
        """The optimizer steps of a full training: half the number of images times classes.

        At least `least_steps` and at most `num_steps`.
        """
        return min(self.num_steps, max(self.least_steps, num_images * num_classes // 2))

    def num_epochs(self, num_steps: int, num_images: int) -> int:
        """The fewest epochs over training images that have so many optimizer steps."""
        return math.ceil(num_steps / self.num_steps_of(1, num_images))

    def default_teacher_config(self, num_epochs: int) -> TrialConfig:
        """The training of a teacher where none is available: a network larger than students.

        The same for every seed of a study.
        """
        return TrialConfig(
            student=self.teacher,
            recipe=Supervised(optimizer=AdamW(learning_rate=TEACHER_RATE)),
            label_loss=self.label_loss,
            augmentation=self.augmentation,
            num_epochs=num_epochs,
            batch_size=self.batch_size,
            ema_decay=self.ema_decay,
        )

    def original_config(
        self, students: Iterable[StudentConfig], num_epochs: int, seed: int
    ) -> TrialConfig | None:
        """The first network that came trained of which a student is made, as it came; or None."""
        for student in students:
            if (network := student.original) is not None:
                original = TrialConfig(student=network, recipe=Original(), num_epochs=1)
                return self.complete(original, num_epochs, seed)
        return None

    def own_teacher_config(
        self, students: Iterable[StudentConfig], num_epochs: int, seed: int, teacher_epochs: int
    ) -> TrialConfig:
        """The teacher where no trained one is named: a student that came trained, or one to train.

        Students have `num_epochs` and the seed.
        """
        original = None
        if not self.teacher_is_named:
            original = self.original_config(students, num_epochs, seed)
        return original or self.default_teacher_config(teacher_epochs)

    def complete(self, trial: TrialConfig, num_epochs: int, seed: int) -> TrialConfig:
        """The suggested configuration with the values that are the same for all trials."""
        recipe = trial.recipe
        if (quantized := recipe.quantized) and quantized.start_epochs is None:
            recipe = recipe.replace(start_epochs=PRETRAINING_LENGTH * num_epochs)
        return trial.replace(
            recipe=recipe,
            num_epochs=1 if recipe.only_calibrates else num_epochs,
            seed=seed,
            batch_size=self.batch_size,
            label_loss=self.label_loss,
            augmentation=self.augmentation,
            ema_decay=self.ema_decay,
        )


def quantized_as_it_came(trial: TrialConfig) -> TrialConfig:
    """The training without that of a start, where the student came trained.

    A start with a length of its own is kept, and one with settings that are neither the default
    nor recommended.
    """
    quantized = trial.recipe.quantized
    if not (trial.student.is_trained and quantized):
        return trial
    recommended = RECOMMENDED.get(trial.recipe.name, trial.recipe).quantized
    usual = (Supervised(), recommended.start) if recommended else (Supervised(),)
    is_chosen = quantized.start_epochs is not None or quantized.start not in usual
    return trial if is_chosen else trial.with_recipe(start=Original())


def defaults_for(data: str, device: str) -> Defaults:
    """Defaults for the built-in data set and for photographs, by device.

    The length is one of optimizer steps, so that small data sets get as many as large ones. On a
    CPU, where they take long, few images of few classes get fewer.
    """
    if data == "shapes":
        return Defaults(48, 256, 256, 8, SMALL_TEACHER, teacher_steps=768)
    if device == "cuda":
        return Defaults(512, 8_000, 8_000, 16, LARGE_TEACHER, teacher_steps=16_000)
    return Defaults(160, 2_000, 800, 8, SMALL_TEACHER, teacher_steps=4_000)


def augmentation_for(num_steps: int) -> AugmentationName:
    """The augmentation that suits a length of training."""
    if num_steps < SCALED_FROM:
        return "flip"
    return "scale" if num_steps < STRONG_FROM else "strong"
