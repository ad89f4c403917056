"""The single epoch of recipes that train nothing."""

import torch
from torch import nn

from trainables.losses.cross_entropy import cross_entropy
from trainables.recipes.base import Epoch, Task


def untrained_epoch(student: nn.Module, task: Task) -> Epoch:
    """The student as it is, with its cross-entropy on the first batch."""
    batch = next(task.batches(1))
    with torch.no_grad():
        loss = cross_entropy(student.eval()(batch.images), batch.labels)
    return Epoch(student.train(), {"cross_entropy": float(loss)})
