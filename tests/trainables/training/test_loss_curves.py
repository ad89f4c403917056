"""Each recipe gives the losses and the mIoU that it gave when they were stored.

Float32 on a CPU. On one machine the numbers are equal to the last digit. Processors round sums
differently, and a quantizer turns a difference in the last digit into one of a whole step: with
the vector instructions of 2006 instead of AVX2, losses moved by up to 4e-7 in full precision and
by up to 0.04 of themselves in quantized trainings; with AVX-512 a loss of the distillation moved by
9e-4. A process of its own therefore trains with AVX2 where the processor has it.

To store the curves anew after a change that is meant to change training, write what this file
prints as a script, with `PYTHONPATH=tests` and the variables of INSTRUCTIONS, to STORED, and say
why in docs/log.md.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from shared_fixtures import Blocks, pack_blocks

from trainables.config import ExecutionConfig, TrialConfig
from trainables.data.configs import Augmentation
from trainables.losses.configs import Pairwise, Pixelwise, by_name
from trainables.models.configs import UNetConfig
from trainables.models.model_file import ModelSpec, write_model
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import AdamW, Distill, Ptq, Qat, QatDistill, Recipe, Supervised
from trainables.training.trial import Trial

STORED = Path(__file__).with_name("loss_curves.json")
TESTS = Path(__file__).parents[2]
INSTRUCTIONS = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
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
def curves() -> dict[str, Curve]:
    environment = {**os.environ, **INSTRUCTIONS, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    program = [sys.executable, __file__]
    printed = subprocess.run(program, env=environment, check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, Curve] = json.loads(printed)
    return found


def test_every_recipe_has_a_curve() -> None:
    own = {n: c for n, c in Recipe.members().items() if c.__module__.startswith("trainables.")}
    assert set(RECIPES) == {name for name, recipe in own.items() if not recipe.is_reference}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_gives_its_stored_curve(name: str, curves: dict[str, Curve]) -> None:
    curve, stored = curves[name], read_stored()[name]
    assert len(curve) == len(stored)
    for epoch, expected in zip(curve, stored, strict=True):
        assert epoch == pytest.approx(expected, rel=TOLERANCE[name])


def read_stored() -> dict[str, Curve]:
    stored: dict[str, Curve] = json.loads(STORED.read_text())
    return stored


def print_curves() -> None:
    """Trains each recipe; processors that compute in bfloat16 do not."""
    able = torch.cpu.get_capabilities()
    others = {name: value for name, value in able.items() if "bf16" not in name}
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(torch.cpu, "get_capabilities", lambda: others)
        run = with_teacher(pack_blocks(Path(folder), Blocks()), Path(folder))
        print(json.dumps({name: train(recipe, run) for name, recipe in RECIPES.items()}, indent=1))


if __name__ == "__main__":
    print_curves()
