"""What the configuration of a study or a comparison fixes for all of its trainings."""

from dataclasses import replace
from typing import Literal, Protocol

from trainables.data.configs import AUGMENTATIONS, AugmentationName
from trainables.losses.configs import LabelLossConfig
from trainables.models.configs import StudentConfig
from trainables.training.defaults import Defaults, defaults_for


class TrainingChoices(Protocol):
    """The fields of a configuration that decide how everything is trained."""

    @property
    def data(self) -> str: ...
    @property
    def device(self) -> Literal["cpu", "cuda"]: ...
    @property
    def teacher(self) -> str | StudentConfig: ...
    @property
    def augmentation(self) -> AugmentationName | None: ...
    @property
    def label_loss(self) -> LabelLossConfig: ...
    @property
    def ema_decay(self) -> float: ...


def chosen_defaults(config: TrainingChoices) -> Defaults:
    """The defaults for the data and the device, with what the configuration chooses."""
    assert config.augmentation, "it follows from the length of a training"
    defaults = defaults_for(config.data, config.device)
    if isinstance(config.teacher, StudentConfig):
        defaults = replace(defaults, teacher=config.teacher, teacher_is_named=True)
    return replace(
        defaults,
        augmentation=AUGMENTATIONS[config.augmentation],
        label_loss=config.label_loss,
        ema_decay=config.ema_decay,
    )
