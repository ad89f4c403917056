"""Post-training quantization: a converged student is calibrated, not trained (Nagel et al. 2021,
arXiv 2106.08295, section 3)."""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field

from trainables.core.config_base import FrozenConfig
from trainables.losses.cross_entropy import cross_entropy
from trainables.quantization.mixed_precision import Quantizer
from trainables.quantization.quantizers.lsq import Lsq
from trainables.recipes.base import Epoch, Task
from trainables.recipes.quantized_start import Pretraining, quantized_student
from trainables.recipes.supervised import Supervised


class Ptq(FrozenConfig):
    """What quantization-aware training begins with, as it is: its trials have a single epoch."""

    name: Literal["ptq"] = "ptq"
    start: Pretraining = Supervised()
    start_epochs: int | None = Field(None, ge=1, description="None: as many as the trial's own")
    quantizer: Quantizer = Lsq()


def train_ptq(recipe: Ptq, task: Task) -> Iterator[Epoch]:
    """Yields the quantized student once."""
    student = quantized_student(recipe, task)
    batch = next(task.batches(1))
    with torch.no_grad():
        loss = cross_entropy(student.eval()(batch.images), batch.labels)
    yield Epoch(student.train(), {"cross_entropy": float(loss)})
