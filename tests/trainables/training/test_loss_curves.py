"""Each recipe gives the losses and the mIoU that it gave when they were stored.

Float32 on a CPU. On one machine the numbers are equal to the last digit. Processors round sums
differently, and a quantizer turns a difference in the last digit into one of a whole step: with
the vector instructions of 2006 instead of AVX2, losses moved by up to 4e-7 in full precision and
by up to 0.04 of themselves in quantized trainings.

To store the curves anew after a change that is meant to change training, run this file as a script,
with `PYTHONPATH=tests`, and say why in docs/log.md.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from shared_fixtures import Blocks, pack_blocks

from trainables.config import ExecutionConfig, TrialConfig
from trainables.data.configs import Augmentation
from trainables.losses.configs import Pairwise, Pixelwise, by_name
from trainables.models.base import supports_fast_bf16
from trainables.models.configs import UNetConfig
from trainables.models.model_file import ModelSpec, write_model
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import AdamW, Distill, Ptq, Qat, QatDistill, Recipe, Supervised
from trainables.training.trial import Trial

STORED = Path(__file__).with_name("loss_curves.json")
SUPERVISED = Supervised(optimizer=AdamW(learning_rate=1e-2))
LOSSES = by_name(Pixelwise(weight=1.0), Pairwise(weight=0.5))
RECIPES: dict[str, Recipe] = {
    "supervised": SUPERVISED,
    "distill": Distill(optimizer=AdamW(learning_rate=1e-2), losses=LOSSES),
    "ptq": Ptq(start=SUPERVISED, start_epochs=8, quantizer=Lsq(weight_bits=4)),
    "qat": Qat(start=SUPERVISED, start_epochs=8, quantizer=Lsq(weight_bits=3)),
    "qat_distill": QatDistill(
        start=SUPERVISED,
        start_epochs=8,
        quantizer=Lsq(weight_bits=3),
        losses=LOSSES,
        self_study=0.25,
        co_study=0.4,
    ),
}

TOLERANCE = {"supervised": 1e-5, "distill": 1e-5, "ptq": 0.01, "qat": 0.01, "qat_distill": 0.05}
"""Relative, of each loss and of the mIoU."""
LEAST = {"losses": 3e-5, "miou": 1e-4}
"""Differences that are never too large: the losses of the distillation, of which one is below 0.01,
moved by up to 1.7e-5 between AVX2 and AVX-512, and the mIoU by one pixel, 1.5e-5."""

Curve = list[dict[str, float]]


def train(recipe: Recipe, run: ExecutionConfig) -> Curve:
    """The losses and the mIoU of each epoch."""
    config = TrialConfig(
        student=UNetConfig(width=4, depth=2),
        recipe=recipe,
        augmentation=Augmentation(min_scale=0.8, max_scale=1.2),
        num_epochs=1 if isinstance(recipe, Ptq) else 4,
    )
    return [{**metrics.losses, "miou": metrics.miou} for metrics in Trial(config, run)]


def with_teacher(run: ExecutionConfig, folder: Path) -> ExecutionConfig:
    """The same run with a teacher of seeded random weights."""
    torch.manual_seed(0)
    card = ModelSpec(model=UNetConfig(width=6, depth=2), num_classes=5)
    write_model(folder / "teacher.safetensors", card.build(), card)
    return run.replace(teacher=folder / "teacher.safetensors")


@pytest.fixture(scope="module")
def more_blocks(tmp_path_factory: pytest.TempPathFactory) -> ExecutionConfig:
    return pack_blocks(tmp_path_factory.mktemp("artifacts"), Blocks())


@contextmanager
def without_bfloat16() -> Iterator[None]:
    """Processors that compute in bfloat16 do not."""
    able = torch.cpu.get_capabilities()
    others = {name: value for name, value in able.items() if "bf16" not in name}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: others)
        supports_fast_bf16.cache_clear()
        yield
    supports_fast_bf16.cache_clear()


@pytest.fixture
def float32() -> Iterator[None]:
    with without_bfloat16():
        yield


def test_every_recipe_has_a_curve() -> None:
    own = {n: c for n, c in Recipe.members().items() if c.__module__.startswith("trainables.")}
    assert set(RECIPES) == {name for name, recipe in own.items() if not recipe.is_reference}


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_gives_its_stored_curve(
    name: str, more_blocks: ExecutionConfig, tmp_path: Path
) -> None:
    curve, stored = train(RECIPES[name], with_teacher(more_blocks, tmp_path)), read_stored()[name]
    assert len(curve) == len(stored)
    for epoch, expected in zip(curve, stored, strict=True):
        own, other = epoch.pop("miou"), expected.pop("miou")
        assert own == pytest.approx(other, rel=TOLERANCE[name], abs=LEAST["miou"])
        assert epoch == pytest.approx(expected, rel=TOLERANCE[name], abs=LEAST["losses"])


def read_stored() -> dict[str, Curve]:
    curves: dict[str, Curve] = json.loads(STORED.read_text())
    return curves


def store() -> None:
    torch.set_num_threads(1)
    with without_bfloat16(), tempfile.TemporaryDirectory() as folder:
        run = with_teacher(pack_blocks(Path(folder), Blocks()), Path(folder))
        curves = {name: train(recipe, run) for name, recipe in RECIPES.items()}
    STORED.write_text(json.dumps(curves, indent=1) + "\n")


if __name__ == "__main__":
    store()
