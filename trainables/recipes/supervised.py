"""Training on labels alone."""

from collections.abc import Iterator
from typing import Literal

from trainables.frozen import Frozen
from trainables.losses.cross_entropy import cross_entropy
from trainables.models.outputs import forward_features
from trainables.recipes.optimization import AdamW, Stepper
from trainables.recipes.task import Epoch, Task


class Supervised(Frozen):
    """A full-precision student learns from labels: every other recipe's yardstick."""

    name: Literal["supervised"] = "supervised"
    optimizer: AdamW = AdamW()


def train_supervised(recipe: Supervised, task: Task) -> Iterator[Epoch]:
    """Yields the student after each epoch."""
    student = task.new_student()
    stepper = Stepper(student, recipe.optimizer, task.num_steps, task.parts)
    for batches, losses in task.epochs(student=student, stepper=stepper):
        for batch in batches:
            loss = cross_entropy(forward_features(student, batch.images).logits, batch.labels)
            stepper.step(loss)
            losses.add({"cross_entropy": loss})
        yield Epoch(student, losses.mean())
