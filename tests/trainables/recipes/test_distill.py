"""The reported distillation losses are those that train the student."""

from pathlib import Path

import pytest
import torch
from factories import ShortTask
from torch import Tensor

from trainables.config import ExecutionConfig
from trainables.losses.configs import Pairwise, Pixelwise, Term, by_name
from trainables.models.base import forward_features
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import AdamW, Distill, QatDistill, Recipe

FAST = AdamW(learning_rate=3e-2)
OFF = Lsq(weight_bits=32, activation_bits=32)


@pytest.mark.parametrize("term", [Pixelwise(), Pairwise()], ids=lambda term: term.name)
@pytest.mark.parametrize(
    "recipe",
    [Distill(optimizer=FAST), QatDistill(optimizer=FAST, quantizer=OFF, self_study=0)],
    ids=lambda recipe: recipe.name,
)
def test_a_term_brings_the_student_nearer_to_its_teacher(
    recipe: Recipe, term: Term, blocks_run: ExecutionConfig, teacher_file: Path
) -> None:
    def distance(weight: float) -> float:
        taught = recipe.replace(losses=by_name(term.replace(weight=weight)))
        task = ShortTask(taught, blocks_run.replace(teacher=teacher_file), batch_size=8)
        (epoch,) = taught.train(task)
        batch = next(task.batches(1))
        with torch.no_grad():
            outputs = forward_features(epoch.student, batch.images)
            teacher = task.source(batch)
            loss: Tensor = term.build(outputs, teacher)(outputs, teacher, batch.labels)
            return loss.item()

    assert distance(10) < 0.8 * distance(0)
