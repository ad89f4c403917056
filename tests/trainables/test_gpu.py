"""Every recipe on a CUDA device."""

from pathlib import Path

import pytest
import torch

from trainables.config import RunConfig, TrialConfig
from trainables.data.augmentation import Augmentation
from trainables.losses import DistillationLosses
from trainables.losses.pairwise import Pairwise
from trainables.models.unet import UNetConfig
from trainables.recipes import Distill, Qat, QatDistill, Recipe, Supervised
from trainables.recipes.optimization import AdamW
from trainables.trial import Trial

START = Supervised(optimizer=AdamW(learning_rate=1e-2))
RECIPES: list[Recipe] = [
    START,
    Distill(optimizer=AdamW(learning_rate=1e-2), losses=DistillationLosses(pairwise=Pairwise())),
    Qat(start=START),
    QatDistill(start=START, self_study=0.25, co_study=0.5),
]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_runs_on_a_gpu(recipe: Recipe, blocks_run: RunConfig, teacher_file: Path) -> None:
    config = TrialConfig(
        student=UNetConfig(width=8, depth=2),
        recipe=recipe,
        augmentation=Augmentation(min_scale=1, max_scale=1, color=0),
        num_epochs=4,
    )
    run = blocks_run.replace(teacher=teacher_file, device="cuda")
    last = list(Trial(config, run))[-1]
    assert last.size_bytes == last.predicted_size_bytes
