"""What distillation reports is what the student learns by."""

from pathlib import Path

import pytest
import torch
from factories import ShortTask

from trainables.config import ExecutionConfig
from trainables.losses import DistillationLosses, DistillationTerm
from trainables.losses.pairwise import Pairwise
from trainables.losses.pixelwise import Pixelwise
from trainables.models.base import forward_features
from trainables.quantization.quantizers.lsq import Lsq
from trainables.recipes import Distill, QatDistill, Recipe, train
from trainables.recipes.optimization import AdamW

FAST = AdamW(learning_rate=3e-2)
OFF = Lsq(weight_bits=32, activation_bits=32)


@pytest.mark.parametrize("term", [Pixelwise(), Pairwise()], ids=lambda term: term.name)
@pytest.mark.parametrize(
    "recipe",
    [Distill(optimizer=FAST), QatDistill(optimizer=FAST, quantizer=OFF, self_study=0)],
    ids=lambda recipe: recipe.name,
)
def test_a_term_brings_the_student_nearer_to_its_teacher(
    recipe: Recipe, term: DistillationTerm, blocks_run: ExecutionConfig, teacher_file: Path
) -> None:
    def distance(weight: float) -> float:
        losses = {"pixelwise": None, "pairwise": None, term.name: term.replace(weight=weight)}
        taught = recipe.replace(losses=DistillationLosses.model_validate(losses))
        task = ShortTask(taught, blocks_run.replace(teacher=teacher_file), batch_size=8)
        (epoch,) = train(taught, task)
        batch = next(task.batches(1))
        with torch.no_grad():
            outputs = forward_features(epoch.student, batch.images)
            return term(outputs, task.source(batch), batch.labels).item()

    assert distance(10) < 0.8 * distance(0)
