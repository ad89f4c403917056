"""Knowledge distillation (Hinton et al. 2015; Liu et al. 2019, arXiv 1903.04197)."""

from collections.abc import Iterator
from typing import Literal

import torch

from trainables.frozen import Frozen
from trainables.losses import DistillationLosses
from trainables.losses.cross_entropy import cross_entropy
from trainables.models.outputs import forward_features
from trainables.recipes.optimization import AdamW, Stepper
from trainables.recipes.task import Epoch, Task, total


class Distill(Frozen):
    """A full-precision student learns from labels and from a frozen teacher."""

    name: Literal["distill"] = "distill"
    optimizer: AdamW = AdamW()
    losses: DistillationLosses = DistillationLosses()


def train_distill(recipe: Distill, task: Task) -> Iterator[Epoch]:
    """Yields the student after each epoch."""
    student, teacher = task.new_student(), task.teacher()
    stepper = Stepper(student, recipe.optimizer, task.num_steps, task.parts)
    for batches, losses in task.epochs(student=student, stepper=stepper):
        for batch in batches:
            with torch.no_grad():
                taught = teacher(batch)
            outputs = forward_features(student, batch.images)
            terms = {"cross_entropy": cross_entropy(outputs.logits, batch.labels)}
            terms |= recipe.losses.terms(outputs, taught, batch.labels)
            stepper.step(total(terms))
            losses.add(terms)
        yield Epoch(student, losses.mean())
