"""Quantization-aware training without a teacher (Esser et al. 2019, arXiv 1902.08153)."""

from collections.abc import Iterator

from torch import Tensor

from trainables.models.base import forward_features
from trainables.recipes.base import Batch, Epoch, Task, total
from trainables.recipes.configs import Qat
from trainables.recipes.few_bits import FewBits
from trainables.recipes.optimization import OptimizerLoop
from trainables.recipes.quantized_start import quantized_student
from trainables.recipes.training_step import TrainingStep


def train_qat(recipe: Qat, task: Task) -> Iterator[Epoch]:
    """Yields the quantized student after each epoch."""
    student = quantized_student(recipe, task)
    rates = recipe.step_learning_rate
    optimizer_loop = OptimizerLoop(
        student,
        recipe.optimizer,
        task.num_steps,
        task.accumulation_steps,
        rates,
        ema_decay=task.ema_decay,
        cosine_phases=[task.num_steps] if recipe.schedule == "cosine" else (),
    )
    few_bits = FewBits(recipe, optimizer_loop, task)

    def gradients(batch: Batch) -> dict[str, Tensor]:
        logits = forward_features(student, batch.images).logits
        terms = task.label_loss(logits, batch.labels) | few_bits.losses()
        optimizer_loop.backward(total(terms))
        return terms

    step = TrainingStep(gradients, optimizer_loop)
    for batches, losses in task.epochs(few_bits=few_bits, student=student, stepper=optimizer_loop):
        for batch in batches:
            few_bits.before(step)
            losses.add(step(batch))
        few_bits.after_epoch()
        yield Epoch(optimizer_loop.shipped, losses.mean())
