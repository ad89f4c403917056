"""Training on labels alone."""

from collections.abc import Iterator

from torch import Tensor

from trainables.models.base import forward_features
from trainables.recipes.base import Batch, Epoch, Task, total
from trainables.recipes.configs import Supervised
from trainables.recipes.optimization import OptimizerLoop
from trainables.recipes.training_step import TrainingStep


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

    def gradients(batch: Batch) -> dict[str, Tensor]:
        terms = task.label_loss(forward_features(student, batch.images).logits, batch.labels)
        optimizer_loop.backward(total(terms))
        return terms

    step = TrainingStep(gradients, optimizer_loop)
    for batches, losses in task.epochs(student=student, stepper=optimizer_loop):
        for batch in batches:
            losses.add(step(batch))
        yield Epoch(optimizer_loop.shipped, losses.mean())
