"""Quantization-aware knowledge distillation, QKD (Kim et al. 2019, arXiv 1911.12491)."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trainables.frozen import Frozen
from trainables.losses import DistillationLosses
from trainables.losses.cross_entropy import cross_entropy
from trainables.losses.pixelwise import Pixelwise, pixelwise_loss
from trainables.models.outputs import Outputs, forward_features
from trainables.quant.allocation import Quantizer
from trainables.quant.prepare import Lsq
from trainables.recipes.optimization import AdamW, Stepper, StepRates
from trainables.recipes.qat import Start, quantized_start
from trainables.recipes.supervised import Supervised
from trainables.recipes.task import Epoch, Task, total

TEACHER_LOSS = "teacher"
"""Name of the loss that the teacher learns by in co-study."""


class QatDistill(Frozen):
    """A quantized student in three phases, each a fraction of the training's optimizer steps.

    Self-study: labels alone. Co-study: student and teacher learn together, each also from the
    other. Tutoring, the rest: the teacher is frozen. Either of the first two may be 0; a training
    of self-study alone is `Qat`.
    """

    name: Literal["qat_distill"] = "qat_distill"
    start: Start = Supervised()
    start_epochs: int | None = Field(None, ge=1, description="None: as many as the trial's own")
    optimizer: AdamW = AdamW(learning_rate=1e-3)
    step_learning_rate: StepRates = StepRates()
    quantizer: Quantizer = Lsq()
    losses: DistillationLosses = DistillationLosses(pixelwise=Pixelwise())
    self_study: float = Field(0.15, ge=0, lt=1)
    co_study: float = Field(0.0, ge=0, le=1)
    teacher_learning_rate: float = Field(1e-4, gt=0, description="peak, during co-study")

    @model_validator(mode="after")
    def check_phases(self) -> "QatDistill":
        if self.self_study + self.co_study > 1 + 1e-9:
            raise ValueError(
                f"self_study + co_study <= 1 must hold, but got {self.self_study} and "
                f"{self.co_study}"
            )
        return self

    @property
    def tutoring(self) -> float:
        """The third phase's fraction."""
        return max(0.0, 1 - self.self_study - self.co_study)


def train_qat_distill(recipe: QatDistill, task: Task) -> Iterator[Epoch]:
    """Yields the quantized student after each epoch."""
    student = quantized_start(recipe, task)
    teacher = task.teacher()
    rates = recipe.step_learning_rate
    stepper = Stepper(student, recipe.optimizer, task.num_steps, task.parts, rates)
    co_study_from = round(recipe.self_study * task.num_steps)
    tutoring_from = round((recipe.self_study + recipe.co_study) * task.num_steps)
    co_teacher = CoTeacher(teacher.network, recipe, tutoring_from - co_study_from, task.parts)
    for batches, losses in task.epochs(student=student, stepper=stepper, co_teacher=co_teacher):
        for batch in batches:
            outputs = forward_features(student, batch.images)
            terms = {"cross_entropy": cross_entropy(outputs.logits, batch.labels)}
            if stepper.num_taken >= co_study_from:
                studying = stepper.num_taken < tutoring_from
                with torch.set_grad_enabled(studying):
                    taught = teacher(batch)
                terms |= recipe.losses.terms(outputs, taught, batch.labels)
                if studying:
                    losses.add({TEACHER_LOSS: co_teacher.learn(taught, outputs, batch.labels)})
            stepper.step(total(terms))
            losses.add(terms)
        yield Epoch(student, losses.mean())


class CoTeacher:
    """The teacher as a fellow student: L_T = CE + T^2 KL(student || teacher) (equation 8).

    Its normalisation statistics stay frozen, because batches are small. Of a teacher whose outputs
    are cached, what learns is a linear map of its logits (see `CachedTutor`).
    """

    def __init__(self, teacher: nn.Module, recipe: QatDistill, num_steps: int, parts: int) -> None:
        self.temperature = (recipe.losses.pixelwise or Pixelwise()).temperature
        self.teacher = teacher
        self.stepper: Stepper | None = None
        if num_steps:
            teacher.requires_grad_(True)
            adamw = AdamW(learning_rate=recipe.teacher_learning_rate)
            self.stepper = Stepper(teacher, adamw, num_steps, parts)

    def learn(self, teacher: Outputs, student: Outputs, labels: Tensor) -> Tensor:
        """One step of the teacher; gives its loss back."""
        loss = cross_entropy(teacher.logits, labels) + pixelwise_loss(
            teacher.logits, student.logits, labels, self.temperature
        )
        assert self.stepper, "there is a co-study"
        self.stepper.step(loss)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """What goes on after a checkpoint; nothing of a teacher that never learns."""
        if self.stepper is None:
            return {}
        return {"teacher": self.teacher.state_dict(), "stepper": self.stepper.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.stepper is not None:
            self.teacher.load_state_dict(state["teacher"])
            self.stepper.load_state_dict(state["stepper"])
