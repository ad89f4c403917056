"""Training on labels alone."""

from collections.abc import Iterator

from trainables.models.base import forward_features
from trainables.recipes.base import Epoch, Task, total
from trainables.recipes.configs import Supervised
from trainables.recipes.optimization import OptimizerLoop


def train_supervised(recipe: Supervised, task: Task) -> Iterator[Epoch]:
    """Yields the student after each epoch."""
    student = task.new_student()
    optimizer_loop = OptimizerLoop(
        student,
        recipe.optimizer,
        task.num_steps,
        task.accumulation_steps,
        ema_decay=task.ema_decay,
    )
    for batches, losses in task.epochs(student=student, stepper=optimizer_loop):
        for batch in batches:
            logits = forward_features(student, batch.images).logits
            terms = task.label_loss(logits, batch.labels)
            optimizer_loop.step(total(terms))
            losses.add(terms)
        yield Epoch(optimizer_loop.shipped, losses.mean())
