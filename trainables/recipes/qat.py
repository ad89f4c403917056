"""Quantization-aware training without a teacher (Esser et al. 2019, arXiv 1902.08153)."""

from collections.abc import Iterator

from trainables.models.base import forward_features
from trainables.recipes.base import Epoch, Task, total
from trainables.recipes.configs import Qat
from trainables.recipes.few_bits import FewBits
from trainables.recipes.optimization import OptimizerLoop
from trainables.recipes.quantized_start import quantized_student


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
    for batches, losses in task.epochs(few_bits=few_bits, student=student, stepper=optimizer_loop):
        for batch in batches:
            few_bits.before_step()
            logits = forward_features(student, batch.images).logits
            terms = task.label_loss(logits, batch.labels) | few_bits.losses()
            optimizer_loop.step(total(terms))
            losses.add(terms)
        few_bits.after_epoch()
        yield Epoch(optimizer_loop.shipped, losses.mean())
