"""The configuration of the augmentation, and which labels count; importing it imports no torch."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from trainables.core.config_base import FrozenConfig

if TYPE_CHECKING:
    from trainables.data.augmentation import Views


AugmentationName = Literal["flip", "scale", "strong"]
"""Horizontal flips; also scales from 0.8 to 1.25 and colour; or scales from 0.75 to 1.5."""

LabelSize = Literal["own", "packed"]
"""The size of the validation labels that mIoU is measured on: their own, or that of the images as
they are packed, shrunk, for the networks."""
MEASURED_ON: dict[LabelSize, str] = {
    "own": "at the labels' own size",
    "packed": "at the networks' input size",
}
"""The same in words, to follow "mIoU"."""


class Augmentation(FrozenConfig):
    """Scale, crop with 255 padding, flip, colour: the usual recipe for segmentation."""

    min_scale: float = Field(0.75, gt=0)
    max_scale: float = Field(1.5, gt=0)
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    color: float = Field(0.2, ge=0, lt=1, description="brightness, contrast and saturation change")

    @model_validator(mode="after")
    def check_scales(self) -> "Augmentation":
        if self.min_scale > self.max_scale:
            raise ValueError(
                f"min_scale <= max_scale must hold, but got {self.min_scale} and {self.max_scale}"
            )
        return self

    def views(self, num_samples: int, seed: int, epoch: int) -> "Views":
        """One view of each sample: a function of (seed, epoch, sample) alone."""
        from trainables.data.augmentation import draw_views

        return draw_views(self, num_samples, seed, epoch)


AUGMENTATIONS: dict[AugmentationName, Augmentation] = {
    "flip": Augmentation(min_scale=1, max_scale=1, color=0),
    "scale": Augmentation(min_scale=0.8, max_scale=1.25),
    "strong": Augmentation(),
}
