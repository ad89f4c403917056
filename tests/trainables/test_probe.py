"""A probe takes real steps of any recipe, and nothing but them."""

from pathlib import Path

import pytest
import torch

from trainables.config import RunConfig, TrialConfig
from trainables.losses import DistillationLosses
from trainables.losses.pairwise import Pairwise
from trainables.models.unet import UNetConfig
from trainables.probe import Probe, gpu_bytes
from trainables.recipes import Distill, Qat, QatDistill, Recipe, Supervised

RECIPES: list[Recipe] = [
    Supervised(),
    Distill(losses=DistillationLosses(pairwise=Pairwise())),
    Qat(),
    QatDistill(self_study=0.3, co_study=0.5),
]


def config(recipe: Recipe, width: int = 4) -> TrialConfig:
    return TrialConfig(student=UNetConfig(width=width, depth=2), recipe=recipe)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_it_trains_nothing_that_stays(
    recipe: Recipe, blocks_run: RunConfig, teacher_file: Path
) -> None:
    run = blocks_run.replace(teacher=teacher_file)
    before = set(run.artifacts.iterdir())
    assert Probe(config(recipe), run).peak_bytes() == 0  # on a CPU there is nothing to measure
    assert set(run.artifacts.iterdir()) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_wider_students_take_more(blocks_run: RunConfig) -> None:
    run = blocks_run.replace(device="cuda")
    narrow, wide = (gpu_bytes(run, [config(Supervised(), width)]) for width in (4, 64))
    assert 0 < narrow[0] < wide[0] < wide[1]
