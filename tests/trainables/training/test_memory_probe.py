"""A memory probe takes real steps of any recipe, and leaves nothing behind."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from trainables.config import ExecutionConfig, TrialConfig
from trainables.losses.configs import Pairwise, Pixelwise, by_name
from trainables.models.base import Outputs
from trainables.models.configs import UNetConfig
from trainables.recipes.base import Batch
from trainables.recipes.configs import Distill, Qat, QatDistill, Recipe, Supervised
from trainables.teachers.outputs import LiveTeacher
from trainables.training.memory_probe import measure_gpu_bytes, num_by_memory, peak_bytes

RECIPES: list[Recipe] = [
    Supervised(),
    Distill(losses=by_name(Pixelwise(), Pairwise())),
    Qat(),
    QatDistill(self_study=0.3, co_study=0.5),
]


def config(recipe: Recipe, width: int = 4) -> TrialConfig:
    return TrialConfig(student=UNetConfig(width=width, depth=2), recipe=recipe)


@pytest.fixture
def steps() -> Iterator[Counter[Optimizer]]:
    """How many steps each optimizer has taken."""
    taken = Counter[Optimizer]()
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: taken.update([optimizer]))
    yield taken
    hook.remove()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_it_takes_two_steps_of_all_that_learns(
    recipe: Recipe, steps: Counter[Optimizer], blocks_run: ExecutionConfig, teacher_file: Path
) -> None:
    peak_bytes(config(recipe), blocks_run.replace(teacher=teacher_file))
    in_co_study = isinstance(recipe, QatDistill)  # the teacher learns, too
    assert sorted(steps.values()) == ([2, 2] if in_co_study else [2])


def test_a_qkd_without_co_study_is_probed_with_its_frozen_teacher(
    steps: Counter[Optimizer], blocks_run: ExecutionConfig, teacher_file: Path
) -> None:
    recipe = QatDistill(self_study=0.9, co_study=0)
    asked: list[int] = []

    def count(teacher: LiveTeacher, batch: Batch) -> Outputs:
        asked.append(len(batch.images))
        return ask(teacher, batch)

    ask = LiveTeacher.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveTeacher, "__call__", count)
        peak_bytes(config(recipe), blocks_run.replace(teacher=teacher_file))
    assert len(asked) == 3  # an example, and both steps
    assert list(steps.values()) == [2]


def test_a_start_is_probed_beside_its_trial(
    steps: Counter[Optimizer], blocks_run: ExecutionConfig
) -> None:
    assert measure_gpu_bytes(blocks_run, [config(Supervised()), config(Qat())]) == (0, 0)
    assert list(steps.values()) == [2, 2, 2]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_it_trains_nothing_that_stays(
    recipe: Recipe, blocks_run: ExecutionConfig, teacher_file: Path
) -> None:
    run = blocks_run.replace(teacher=teacher_file)
    before = set(run.artifacts.iterdir())
    assert peak_bytes(config(recipe), run) == 0  # on a CPU there is nothing to measure
    assert set(run.artifacts.iterdir()) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_wider_students_take_more(blocks_run: ExecutionConfig) -> None:
    run = blocks_run.replace(device="cuda")
    narrow, wide = (measure_gpu_bytes(run, [config(Supervised(), width)]) for width in (4, 64))
    assert 0 < narrow[0] < wide[0] < wide[1]


@pytest.mark.parametrize(
    ("peak_gib", "trials"),
    [
        (20, 2),  # 80 GiB, of which 30 % may hold data
        (10, 4),  # five without what CUDA itself takes
        (80, 0),
    ],
)
def test_no_more_trials_share_a_gpu_than_it_holds(peak_gib: int, trials: int) -> None:
    assert num_by_memory(peak_gib << 30, 80 << 30, data_share=0.3) == trials
