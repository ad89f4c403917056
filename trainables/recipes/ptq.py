"""Post-training quantization: a converged student is calibrated, not trained (Nagel et al. 2021,
arXiv 2106.08295, section 3)."""

from collections.abc import Iterator

import torch

from trainables.losses.cross_entropy import cross_entropy
from trainables.recipes.base import Epoch, Task
from trainables.recipes.configs import Ptq
from trainables.recipes.quantized_start import quantized_student


def train_ptq(recipe: Ptq, task: Task) -> Iterator[Epoch]:
    """Yields the quantized student once."""
    student = quantized_student(recipe, task)
    batch = next(task.batches(1))
    with torch.no_grad():
        loss = cross_entropy(student.eval()(batch.images), batch.labels)
    yield Epoch(student.train(), {"cross_entropy": float(loss)})
