"""Knowledge distillation (Hinton et al. 2015; Liu et al. 2019, arXiv 1903.04197)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from trainables.losses.distillation import DistillationLoss
from trainables.models.base import forward_features
from trainables.recipes.base import Batch, Epoch, Task, TeacherOutputSource
from trainables.recipes.configs import Distill, QatDistill
from trainables.recipes.optimization import OptimizerLoop
from trainables.recipes.training_step import TrainingStep


def train_distill(recipe: Distill, task: Task) -> Iterator[Epoch]:
    """Yields the student after each epoch."""
    student, teacher = task.new_student(), task.teacher()
    distillation = distillation_loss(recipe, student, teacher, task)
    optimizer_loop = OptimizerLoop(
        student,
        recipe.optimizer,
        task.num_steps,
        task.accumulation_steps,
        learned=distillation,
        ema_decay=task.ema_decay,
    )

    def gradients(batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_outputs = teacher(batch)
        outputs = forward_features(student, batch.images)
        label_losses = task.label_loss(outputs.logits, batch.labels)
        terms: dict[str, Tensor] = distillation(outputs, teacher_outputs, batch.labels)
        optimizer_loop.backward(distillation.total(label_losses, terms))
        return label_losses | terms

    step = TrainingStep(gradients, optimizer_loop)
    for batches, losses in task.epochs(
        student=student, stepper=optimizer_loop, distillation=distillation
    ):
        for batch in batches:
            losses.add(step(batch))
        yield Epoch(optimizer_loop.shipped, losses.mean())


@torch.no_grad()
def distillation_loss(
    recipe: Distill | QatDistill, student: nn.Module, teacher: TeacherOutputSource, task: Task
) -> DistillationLoss:
    """The distillation loss, whose parameters are sized by both networks' outputs for a batch."""
    batch = next(task.batches(1))
    outputs = forward_features(student.eval(), batch.images)
    student.train()
    return DistillationLoss(
        recipe.losses,
        outputs,
        teacher(batch),
        task.seed,
        task.label_loss.weights,
        recipe.term_weights,
    )
