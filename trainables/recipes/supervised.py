"""Training on labels alone."""

from collections.abc import Iterator

from trainables.losses.cross_entropy import cross_entropy
from trainables.models.base import forward_features
from trainables.recipes.base import Epoch, Task
from trainables.recipes.configs import Supervised
from trainables.recipes.optimization import OptimizerLoop


def train_supervised(recipe: Supervised, task: Task) -> Iterator[Epoch]:
    """Yields the student after each epoch."""
    student = task.new_student()
    optimizer_loop = OptimizerLoop(
        student, recipe.optimizer, task.num_steps, task.accumulation_steps
    )
    for batches, losses in task.epochs(student=student, stepper=optimizer_loop):
        for batch in batches:
            loss = cross_entropy(forward_features(student, batch.images).logits, batch.labels)
            optimizer_loop.step(loss)
            losses.add({"cross_entropy": loss})
        yield Epoch(student, losses.mean())
