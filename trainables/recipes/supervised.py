"""Training on labels alone."""

from collections.abc import Iterator
from typing import Literal

from trainables.frozen import Frozen
from trainables.losses.cross_entropy import cross_entropy
from trainables.models.outputs import forward_features
from trainables.recipes.optimization import AdamW, Stepper
from trainables.recipes.task import Epoch, MeanLosses, Task


class Supervised(Frozen):
    """A full-precision student learns from labels: every other recipe's yardstick."""

    name: Literal["supervised"] = "supervised"
    optimizer: AdamW = AdamW()


def train_supervised(recipe: Supervised, task: Task) -> Iterator[Epoch]:
    """Yields the student after each epoch."""
    student = task.new_student()
    stepper = Stepper(student, recipe.optimizer, task.num_steps, task.parts)
    for epoch in range(1, task.num_epochs + 1):
        losses = MeanLosses()
        for batch in task.batches(epoch):
            loss = cross_entropy(forward_features(student, batch.images).logits, batch.labels)
            stepper.step(loss)
            losses.add({"cross_entropy": loss})
        yield Epoch(student, losses.mean())
