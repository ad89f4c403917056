"""Quantization-aware knowledge distillation, QKD (Kim et al. 2019, arXiv 1911.12491)."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trainables.core.config_base import FrozenConfig
from trainables.losses import DistillationLosses
from trainables.losses.cross_entropy import cross_entropy
from trainables.losses.pixelwise import Pixelwise, pixelwise_loss
from trainables.models.base import Outputs, forward_features
from trainables.quantization.mixed_precision import Quantizer
from trainables.quantization.quantizers.lsq import Lsq
from trainables.recipes.base import Epoch, Task, total
from trainables.recipes.optimization import AdamW, OptimizerLoop, QuantizerLearningRates
from trainables.recipes.quantized_start import Pretraining, quantized_student
from trainables.recipes.supervised import Supervised

TEACHER_LOSS = "teacher"
"""Name of the loss that the teacher learns by in co-study."""


class QatDistill(FrozenConfig):
    """A quantized student in three phases, each a fraction of the training's optimizer steps.

    Self-study: labels alone. Co-study: student and teacher learn together, each also from the
    other. Tutoring, the rest: the teacher is frozen. Either of the first two may be 0; a training
    of self-study alone is `Qat`.
    """

    name: Literal["qat_distill"] = "qat_distill"
    start: Pretraining = Supervised()
    start_epochs: int | None = Field(None, ge=1, description="None: as many as the trial's own")
    optimizer: AdamW = AdamW(learning_rate=1e-3)
    step_learning_rate: QuantizerLearningRates = QuantizerLearningRates()
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
    student = quantized_student(recipe, task)
    teacher = task.teacher()
    rates = recipe.step_learning_rate
    optimizer_loop = OptimizerLoop(student, recipe.optimizer, task.num_steps, task.parts, rates)
    co_study_from = round(recipe.self_study * task.num_steps)
    tutoring_from = round((recipe.self_study + recipe.co_study) * task.num_steps)
    co_teacher = CoTeacher(teacher.network, recipe, tutoring_from - co_study_from, task.parts)
    for batches, losses in task.epochs(
        student=student, stepper=optimizer_loop, co_teacher=co_teacher
    ):
        for batch in batches:
            outputs = forward_features(student, batch.images)
            terms = {"cross_entropy": cross_entropy(outputs.logits, batch.labels)}
            if optimizer_loop.num_steps_taken >= co_study_from:
                studying = optimizer_loop.num_steps_taken < tutoring_from
                with torch.set_grad_enabled(studying):
                    teacher_outputs = teacher(batch)
                terms |= recipe.losses.terms(outputs, teacher_outputs, batch.labels)
                if studying:
                    losses.add(
                        {TEACHER_LOSS: co_teacher.learn(teacher_outputs, outputs, batch.labels)}
                    )
            optimizer_loop.step(total(terms))
            losses.add(terms)
        yield Epoch(student, losses.mean())


class CoTeacher:
    """The teacher as a fellow student: L_T = CE + T^2 KL(student || teacher) (equation 8).

    Its normalisation statistics stay frozen, because batches are small. Of a teacher whose outputs
    are cached, what learns is a linear map of its logits (see `CachedTeacher`).
    """

    def __init__(self, teacher: nn.Module, recipe: QatDistill, num_steps: int, parts: int) -> None:
        self.temperature = (recipe.losses.pixelwise or Pixelwise()).temperature
        self.teacher = teacher
        self.optimizer_loop: OptimizerLoop | None = None
        if num_steps:
            teacher.requires_grad_(True)
            adamw = AdamW(learning_rate=recipe.teacher_learning_rate)
            self.optimizer_loop = OptimizerLoop(teacher, adamw, num_steps, parts)

    def learn(self, teacher: Outputs, student: Outputs, labels: Tensor) -> Tensor:
        """One step of the teacher; gives its loss back."""
        loss = cross_entropy(teacher.logits, labels) + pixelwise_loss(
            teacher.logits, student.logits, labels, self.temperature
        )
        assert self.optimizer_loop, "there is a co-study"
        self.optimizer_loop.step(loss)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """What goes on after a checkpoint; nothing of a teacher that never learns."""
        if self.optimizer_loop is None:
            return {}
        return {"teacher": self.teacher.state_dict(), "stepper": self.optimizer_loop.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.optimizer_loop is not None:
            self.teacher.load_state_dict(state["teacher"])
            self.optimizer_loop.load_state_dict(state["stepper"])
