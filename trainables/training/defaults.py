"""Default image sizes, lengths and batch sizes for a data set and the hardware."""

from collections.abc import Iterable
from dataclasses import dataclass

from trainables.config import TrialConfig
from trainables.data.configs import Augmentation
from trainables.models.configs import LARGE_TEACHER, SMALL_TEACHER, StudentConfig
from trainables.recipes.configs import AdamW, Original, Supervised

PRETRAINING_LENGTH = 2
"""Epochs of the shared pretraining, as a multiple of a trial's epochs."""
FLIP_ONLY = Augmentation(min_scale=1, max_scale=1, color=0)


@dataclass(frozen=True)
class Defaults:
    """Image size in pixels (longest side), epochs of one full training, and images per step."""

    image_size: int
    num_epochs: int
    batch_size: int
    augmentation: Augmentation
    teacher: StudentConfig
    teacher_epochs: int

    def default_teacher_config(self) -> TrialConfig:
        """The training of a teacher where none is available: a network larger than students.

        The same for every study of a data set, whatever its seed.
        """
        return TrialConfig(
            student=self.teacher,
            recipe=Supervised(optimizer=AdamW(learning_rate=2e-3)),
            augmentation=self.augmentation,
            num_epochs=self.teacher_epochs,
            batch_size=self.batch_size,
        )

    def own_teacher_config(
        self, students: Iterable[StudentConfig], num_epochs: int, seed: int
    ) -> TrialConfig:
        """The teacher where none is named: a student that came trained, or else one to train."""
        for student in students:
            if student.is_trained:
                original = TrialConfig(student=student, recipe=Original(), num_epochs=1)
                return self.complete(original, num_epochs, seed)
        return self.default_teacher_config()

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
            augmentation=self.augmentation,
        )


def defaults_for(data: str, device: str) -> Defaults:
    """Defaults for the built-in data set and for photographs, by device.

    On a GPU photographs get the length of the published recipes (60 epochs of crops of 512 pixels,
    16 a step: CIRKD, mmsegmentation); on a CPU, what an hour allows. Such short trainings do better
    without scaling and colour: 37.6 against 28.9 mIoU after 12 epochs on CamVid (docs/log.md).
    """
    if data == "shapes":
        return Defaults(48, 8, 8, FLIP_ONLY, teacher=SMALL_TEACHER, teacher_epochs=24)
    if device == "cuda":
        return Defaults(512, 60, 16, Augmentation(), teacher=LARGE_TEACHER, teacher_epochs=120)
    return Defaults(160, 20, 8, FLIP_ONLY, teacher=SMALL_TEACHER, teacher_epochs=60)
