"""Knowledge distillation (Hinton et al. 2015; Liu et al. 2019, arXiv 1903.04197)."""

from collections.abc import Iterator
from typing import Literal

import torch

from trainables.core.config_base import FrozenConfig
from trainables.losses import DistillationLosses
from trainables.losses.cross_entropy import cross_entropy
from trainables.models.base import forward_features
from trainables.recipes.base import Epoch, Task, total
from trainables.recipes.optimization import AdamW, OptimizerLoop


class Distill(FrozenConfig):
    """A full-precision student learns from labels and from a frozen teacher."""

    name: Literal["distill"] = "distill"
    optimizer: AdamW = AdamW()
    losses: DistillationLosses = DistillationLosses()


def train_distill(recipe: Distill, task: Task) -> Iterator[Epoch]:
    """Yields the student after each epoch."""
    student, teacher = task.new_student(), task.teacher()
    optimizer_loop = OptimizerLoop(student, recipe.optimizer, task.num_steps, task.parts)
    for batches, losses in task.epochs(student=student, stepper=optimizer_loop):
        for batch in batches:
            with torch.no_grad():
                teacher_outputs = teacher(batch)
            outputs = forward_features(student, batch.images)
            terms = {"cross_entropy": cross_entropy(outputs.logits, batch.labels)}
            terms |= recipe.losses.terms(outputs, teacher_outputs, batch.labels)
            optimizer_loop.step(total(terms))
            losses.add(terms)
        yield Epoch(student, losses.mean())
