"""Quantization-aware training without a teacher (Esser et al. 2019, arXiv 1902.08153)."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from trainables.core.config_base import FrozenConfig
from trainables.losses.cross_entropy import cross_entropy
from trainables.models.base import forward_features
from trainables.quantization.mixed_precision import Quantizer
from trainables.quantization.quantizers.lsq import Lsq
from trainables.recipes.base import Epoch, Task
from trainables.recipes.optimization import AdamW, OptimizerLoop, QuantizerLearningRates
from trainables.recipes.quantized_start import Pretraining, quantized_student
from trainables.recipes.supervised import Supervised


class Qat(FrozenConfig):
    """A converged full-precision student learns to live with few bits, from labels alone."""

    name: Literal["qat"] = "qat"
    start: Pretraining = Supervised()
    start_epochs: int | None = Field(None, ge=1, description="None: as many as the trial's own")
    optimizer: AdamW = AdamW(learning_rate=1e-3)
    step_learning_rate: QuantizerLearningRates = QuantizerLearningRates()
    quantizer: Quantizer = Lsq()


def train_qat(recipe: Qat, task: Task) -> Iterator[Epoch]:
    """Yields the quantized student after each epoch."""
    student = quantized_student(recipe, task)
    rates = recipe.step_learning_rate
    optimizer_loop = OptimizerLoop(student, recipe.optimizer, task.num_steps, task.parts, rates)
    for batches, losses in task.epochs(student=student, stepper=optimizer_loop):
        for batch in batches:
            loss = cross_entropy(forward_features(student, batch.images).logits, batch.labels)
            optimizer_loop.step(loss)
            losses.add({"cross_entropy": loss})
        yield Epoch(student, losses.mean())
