"""Post-training quantization: a converged student is calibrated, not trained (Nagel et al. 2021,
arXiv 2106.08295, section 3)."""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field

from trainables.frozen import Frozen
from trainables.losses.cross_entropy import cross_entropy
from trainables.quant.allocation import Quantizer
from trainables.quant.prepare import Lsq
from trainables.recipes.qat import Start, quantized_start
from trainables.recipes.supervised import Supervised
from trainables.recipes.task import Epoch, Task


class Ptq(Frozen):
    """What quantization-aware training begins with, as it is: its trials have a single epoch."""

    name: Literal["ptq"] = "ptq"
    start: Start = Supervised()
    start_epochs: int | None = Field(None, ge=1, description="None: as many as the trial's own")
    quantizer: Quantizer = Lsq()


def train_ptq(recipe: Ptq, task: Task) -> Iterator[Epoch]:
    """Yields the quantized student once."""
    student = quantized_start(recipe, task)
    batch = next(task.batches(1))
    with torch.no_grad():
        loss = cross_entropy(student.eval()(batch.images), batch.labels)
    yield Epoch(student.train(), {"cross_entropy": float(loss)})
