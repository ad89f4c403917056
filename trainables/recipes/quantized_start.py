"""The quantized student that quantization recipes start from: pretrained, prepared, calibrated."""

from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import nn

from trainables.quantization.mixed_precision import Quantizer
from trainables.quantization.prepare import calibrate, prepare
from trainables.quantization.quantizers.lsq import Lsq
from trainables.recipes.base import Task
from trainables.recipes.distill import Distill
from trainables.recipes.supervised import Supervised

Pretraining = Annotated[Supervised | Distill, Field(discriminator="name")]


CALIBRATION_IMAGES = 32


class QuantizedRecipe(Protocol):
    """What every quantization-aware recipe starts from."""

    @property
    def start(self) -> Pretraining: ...
    @property
    def start_epochs(self) -> int | None: ...
    @property
    def quantizer(self) -> Quantizer: ...


def quantized_student(recipe: QuantizedRecipe, task: Task) -> nn.Module:
    """The full-precision student with its quantizers set from weights and training images."""
    student = task.pretrained_student()
    batches = task.batches(1)
    images = next(batches).images
    while len(images) < CALIBRATION_IMAGES // task.parts and (more := next(batches, None)):
        images = torch.cat([images, more.images])
    assert isinstance(recipe.quantizer, Lsq), "a study resolves allocations"
    prepare(student, recipe.quantizer).to(images.device)
    calibrate(student, images)
    return student
