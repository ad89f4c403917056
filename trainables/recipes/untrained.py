"""The single epoch of recipes that train nothing."""

import torch
from torch import nn

from trainables.recipes.base import Epoch, Task


def untrained_epoch(student: nn.Module, task: Task) -> Epoch:
    """The student as it is, with its losses on the labels of the first batch."""
    batch = next(task.batches(1))
    with torch.no_grad():
        terms = task.label_loss(student.eval()(batch.images), batch.labels)
    return Epoch(student.train(), {name: float(loss) for name, loss in terms.items()})
