"""Quantization-aware knowledge distillation, QKD (Kim et al. 2019, arXiv 1911.12491)."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trainables.losses.configs import Pixelwise
from trainables.losses.pixelwise import pixelwise_loss
from trainables.models.base import Outputs, forward_features
from trainables.recipes.base import Batch, Epoch, Task, total
from trainables.recipes.configs import TEACHER_LOSS, AdamW, QatDistill
from trainables.recipes.distill import distillation_loss
from trainables.recipes.few_bits import FewBits
from trainables.recipes.optimization import OptimizerLoop
from trainables.recipes.quantized_start import quantized_student
from trainables.recipes.training_step import TrainingStep


def train_qat_distill(recipe: QatDistill, task: Task) -> Iterator[Epoch]:
    """Yields the quantized student after each epoch."""
    student = quantized_student(recipe, task)
    teacher = task.teacher()
    rates = recipe.step_learning_rate
    distillation = distillation_loss(recipe, student, teacher, task)
    co_study_from = recipe.taught_from(task.num_steps)
    tutoring_from = round((recipe.self_study + recipe.co_study) * task.num_steps)
    phases = [co_study_from, tutoring_from - co_study_from, task.num_steps - tutoring_from]
    optimizer_loop = OptimizerLoop(
        student,
        recipe.optimizer,
        task.num_steps,
        task.accumulation_steps,
        rates,
        distillation,
        task.ema_decay,
        phases if recipe.schedule == "cosine" else (),
    )
    few_bits = FewBits(recipe, optimizer_loop, task)
    co_teacher = CoTeacher(teacher.network, recipe, tutoring_from - co_study_from, task)

    def gradients(batch: Batch, is_taught: bool, teacher_learns: bool) -> dict[str, Tensor]:
        outputs = forward_features(student, batch.images)
        label_losses = task.label_loss(outputs.logits, batch.labels)
        terms, of_teacher = dict[str, Tensor](), dict[str, Tensor]()
        if is_taught:
            with torch.set_grad_enabled(teacher_learns):
                teacher_outputs = teacher(batch)
            terms = distillation(outputs, teacher_outputs, batch.labels)
        if teacher_learns:
            of_teacher[TEACHER_LOSS] = co_teacher.backward(teacher_outputs, outputs, batch.labels)
        loss = distillation.total(label_losses, terms) if terms else total(label_losses)
        if dampening := few_bits.losses():
            loss = loss + total(dampening)
        optimizer_loop.backward(loss)
        return label_losses | dampening | terms | of_teacher

    def step_of(taught: bool, teacher_learns: bool = False) -> TrainingStep:
        changed = partial(gradients, is_taught=taught, teacher_learns=teacher_learns)
        return TrainingStep(changed, optimizer_loop, *co_teacher.loops if teacher_learns else ())

    self_study, tutoring = step_of(taught=False), step_of(taught=True)
    co_study = step_of(taught=True, teacher_learns=True) if co_teacher.loops else tutoring
    step = self_study
    for batches, losses in task.epochs(
        few_bits=few_bits,
        student=student,
        stepper=optimizer_loop,
        co_teacher=co_teacher,
        distillation=distillation,
    ):
        for batch in batches:
            before, num_taken = step, optimizer_loop.num_steps_taken
            step = co_study if num_taken < tutoring_from else tutoring
            step = self_study if num_taken < co_study_from else step
            if step is not before:
                before.forget()
            few_bits.before(step)
            losses.add(step(batch))
        few_bits.after_epoch()
        yield Epoch(optimizer_loop.shipped, losses.mean())


class CoTeacher:
    """Trains the teacher in co-study: L_T = CE + T^2 KL(student || teacher) (equation 8).

    Unlabelled images have a part in the divergence alone. Its normalisation statistics stay frozen,
    because batches are small. Kept outputs have no network, and stay what they are: new studies
    refuse them with co-study, but those of version 0.2 have such trials.
    """

    def __init__(
        self, teacher: nn.Module | None, recipe: QatDistill, num_steps: int, task: Task
    ) -> None:
        pixelwise = (term for term in recipe.losses.values() if isinstance(term, Pixelwise))
        self.temperature = next(pixelwise, Pixelwise()).temperature
        self.label_loss = task.label_loss
        self.optimizer_loop: OptimizerLoop | None = None
        if num_steps and teacher is not None:
            self.optimizer_loop = OptimizerLoop(
                teacher.requires_grad_(True),
                AdamW(learning_rate=recipe.teacher_learning_rate),
                num_steps,
                task.accumulation_steps,
                cosine_phases=[num_steps] if recipe.schedule == "cosine" else (),
            )

    @property
    def loops(self) -> tuple[OptimizerLoop, ...]:
        """What updates the teacher; nothing where it is not trained at all."""
        return () if self.optimizer_loop is None else (self.optimizer_loop,)

    def backward(self, teacher: Outputs, student: Outputs, labels: Tensor) -> Tensor:
        """Adds the gradient of the teacher's loss, and returns the loss."""
        loss = total(self.label_loss(teacher.logits, labels)) + pixelwise_loss(
            teacher.logits, student.logits, labels, self.temperature
        )
        assert self.optimizer_loop, "there is a co-study"
        self.optimizer_loop.backward(loss)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint; empty for a teacher that is not trained."""
        if (stepper := self.optimizer_loop) is None:
            return {}
        return {"teacher": stepper.model.state_dict(), "stepper": stepper.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.optimizer_loop is not None:
            self.optimizer_loop.model.load_state_dict(state["teacher"])
            self.optimizer_loop.load_state_dict(state["stepper"])
