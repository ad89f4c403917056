"""The quantized student that quantization recipes start from: pretrained, prepared, calibrated."""

import torch
from torch import nn

from trainables.quantization.prepare import calibrate, prepare
from trainables.recipes.base import Task
from trainables.recipes.configs import QuantizedRecipe

CALIBRATION_IMAGES = 32


def quantized_student(recipe: QuantizedRecipe, task: Task) -> nn.Module:
    """The full-precision student with quantizers calibrated by weights and training images."""
    student = task.pretrained_student()
    batches = task.batches(1)
    images = next(batches).images
    while len(images) < CALIBRATION_IMAGES // task.accumulation_steps and (
        more := next(batches, None)
    ):
        images = torch.cat([images, more.images])
    quantizer = recipe.quantizer.quantizer
    assert quantizer, "a study resolves bits that depend on sensitivities"
    prepare(student, quantizer).to(images.device)
    calibrate(student, images)
    return student
