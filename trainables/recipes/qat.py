"""Quantization-aware training without a teacher (Esser et al. 2019, arXiv 1902.08153)."""

from collections.abc import Iterator
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import nn

from trainables.frozen import Frozen
from trainables.losses.cross_entropy import cross_entropy
from trainables.models.outputs import forward_features
from trainables.quant.allocation import Quantizer
from trainables.quant.prepare import Lsq, calibrate, prepare
from trainables.recipes.distill import Distill
from trainables.recipes.optimization import AdamW, Stepper, StepRates
from trainables.recipes.supervised import Supervised
from trainables.recipes.task import Epoch, Task

Start = Annotated[Supervised | Distill, Field(discriminator="name")]


CALIBRATION_IMAGES = 32


class QuantizedRecipe(Protocol):
    """What every quantization-aware recipe starts from."""

    @property
    def start(self) -> Start: ...
    @property
    def start_epochs(self) -> int | None: ...
    @property
    def quantizer(self) -> Quantizer: ...


class Qat(Frozen):
    """A converged full-precision student learns to live with few bits, from labels alone."""

    name: Literal["qat"] = "qat"
    start: Start = Supervised()
    start_epochs: int | None = Field(None, ge=1, description="None: as many as the trial's own")
    optimizer: AdamW = AdamW(learning_rate=1e-3)
    step_learning_rate: StepRates = StepRates()
    quantizer: Quantizer = Lsq()


def train_qat(recipe: Qat, task: Task) -> Iterator[Epoch]:
    """Yields the quantized student after each epoch."""
    student = quantized_start(recipe, task)
    rates = recipe.step_learning_rate
    stepper = Stepper(student, recipe.optimizer, task.num_steps, task.parts, rates)
    for batches, losses in task.epochs(student=student, stepper=stepper):
        for batch in batches:
            loss = cross_entropy(forward_features(student, batch.images).logits, batch.labels)
            stepper.step(loss)
            losses.add({"cross_entropy": loss})
        yield Epoch(student, losses.mean())


def quantized_start(recipe: QuantizedRecipe, task: Task) -> nn.Module:
    """The full-precision student with its quantizers set from weights and training images."""
    student = task.starting_student()
    batches = task.batches(1)
    images = next(batches).images
    while len(images) < CALIBRATION_IMAGES // task.parts and (more := next(batches, None)):
        images = torch.cat([images, more.images])
    assert isinstance(recipe.quantizer, Lsq), "a study resolves allocations"
    prepare(student, recipe.quantizer).to(images.device)
    calibrate(student, images)
    return student
