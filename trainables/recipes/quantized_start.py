"""The quantized student that quantization recipes start from: pretrained, prepared, calibrated."""

import copy
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from trainables.quantization.adaround import learn_rounding
from trainables.quantization.bias_correction import correct_biases
from trainables.quantization.equalization import equalize
from trainables.quantization.prepare import calibrate, prepare
from trainables.quantization.quantizers.base import Quantizer
from trainables.recipes.base import Task
from trainables.recipes.configs import CalibrationStep, QuantizedRecipe

CALIBRATION_IMAGES = 32


def quantized_student(recipe: QuantizedRecipe, task: Task) -> nn.Module:
    """The full-precision student with quantizers calibrated by weights and training images."""
    quantizer = recipe.quantizer.quantizer
    assert quantizer, "a study resolves bits that depend on sensitivities"
    student = task.pretrained_student()
    images = calibration_images(task)
    return quantize(student, quantizer, recipe.calibration, images, task.on_step_end)


def calibration_images(task: Task) -> Tensor:
    """The first training images (B,3,H,W), fewer where a whole batch does not fit into memory."""
    batches = task.batches(1)
    images = next(batches).images
    while len(images) < CALIBRATION_IMAGES // task.accumulation_steps and (
        more := next(batches, None)
    ):
        images = torch.cat([images, more.images])
    return images


def quantize(
    student: nn.Module,
    quantizer: Quantizer,
    steps: Collection[CalibrationStep],
    images: Tensor,
    on_step_end: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Prepares a full-precision student, in place, and calibrates it on images (B,3,H,W).

    `on_step_end` is called between the parts of calibration steps that take minutes.
    """
    if "equalization" in steps:
        equalize(student, images)
    reference = copy.deepcopy(student).eval() if steps else student
    prepare(student, quantizer).to(images.device)
    calibrate(student, images)
    corrects_biases = "bias_correction" in steps
    if "adaround" in steps:
        learn_rounding(student, reference, images, corrects_biases, on_step_end)
    elif corrects_biases:
        correct_biases(student, reference, images)
    return student
