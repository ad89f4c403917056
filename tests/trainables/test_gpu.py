"""Every recipe on a CUDA device, and behaviour that is specific to CUDA."""

from pathlib import Path
from typing import Literal

import pytest
import torch

from trainables.config import ExecutionConfig, TrialConfig
from trainables.data import loader
from trainables.data.configs import Augmentation
from trainables.losses.configs import Pairwise, Pixelwise, by_name
from trainables.losses.cross_entropy import cross_entropy
from trainables.models.base import forward_features
from trainables.models.configs import UNetConfig
from trainables.quantization.quantizers import lsq_kernels
from trainables.quantization.quantizers.lsq import lsq
from trainables.quantization.quantizers.lsq_kernels import fused_way
from trainables.recipes import captured
from trainables.recipes.configs import AdamW, Distill, Qat, QatDistill, Recipe, Supervised
from trainables.recipes.optimization import OptimizerLoop
from trainables.teachers.output_cache import Form, cache_outputs
from trainables.training import evaluation
from trainables.training.task import TrialTask
from trainables.training.trial import Trial

START = Supervised(optimizer=AdamW(learning_rate=1e-2))
RECIPES: list[Recipe] = [
    START,
    Distill(optimizer=AdamW(learning_rate=1e-2), losses=by_name(Pixelwise(), Pairwise())),
    Qat(start=START),
    QatDistill(start=START, self_study=0.25, co_study=0.5),
]
MIOU_TOLERANCE, LABEL_LOSS_TOLERANCE, TERM_TOLERANCE = 0.12, 0.02, 0.2
"""About twice the differences between float32 and bfloat16 on a CPU; those of another seed fail."""
AUGMENTATIONS = [Augmentation(min_scale=1, max_scale=1, color=0), Augmentation(min_scale=0.9)]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def config(recipe: Recipe, augmentation: Augmentation) -> TrialConfig:
    return TrialConfig(
        student=UNetConfig(width=8, depth=2),
        recipe=recipe,
        augmentation=augmentation,
        num_epochs=4,
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("form", ["live", "views", "maps"])
@pytest.mark.parametrize("resident", [True, False], ids=["resident", "streamed"])
def test_a_recipe_learns_on_a_gpu_as_on_a_cpu(
    recipe: Recipe,
    form: Form | Literal["live"],
    resident: bool,
    blocks_run: ExecutionConfig,
    teacher_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lsq_kernels, "MIN_ELEMENTS", 1)
    monkeypatch.setattr(loader, "RESIDENT_SHARE", 0.1 if resident else 0)
    augmentation = AUGMENTATIONS[resident]
    run = blocks_run.replace(teacher=teacher_file)
    if form != "live":
        run = run.replace(teacher_outputs=cache_outputs(run, form, augmentation))
    trained = config(recipe, augmentation)
    on_gpu, on_cpu = (list(Trial(trained, run.replace(device=d))) for d in ("cuda", "cpu"))
    assert on_gpu[-1].size_bytes == on_gpu[-1].predicted_size_bytes
    assert on_gpu[-1].miou == pytest.approx(on_cpu[-1].miou, abs=MIOU_TOLERANCE)
    for gpu, cpu in zip(on_gpu, on_cpu, strict=True):
        assert gpu.losses.keys() == cpu.losses.keys()
        for term, loss in cpu.losses.items():
            tolerance = LABEL_LOSS_TOLERANCE if term == "cross_entropy" else TERM_TOLERANCE
            assert gpu.losses[term] == pytest.approx(loss, rel=tolerance)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_replayed_steps_give_what_called_ones_give(
    recipe: Recipe,
    blocks_run: ExecutionConfig,
    teacher_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(evaluation, "BATCH_SIZE", 2)
    monkeypatch.setattr(evaluation, "MIN_REPLAYED", 1)
    monkeypatch.setattr(captured, "NUM_EAGER", 1)
    captured.SAID.clear()
    run = blocks_run.replace(teacher=teacher_file, device="cuda")
    replayed = list(Trial(config(recipe, AUGMENTATIONS[0]), run))
    assert not [message for message in caplog.messages if "CUDA graph" in message]
    monkeypatch.setattr(captured, "NUM_EAGER", 10**9)
    called = list(Trial(config(recipe, AUGMENTATIONS[0]), run))
    for ours, reference in zip(replayed, called, strict=True):
        assert ours.losses == pytest.approx(reference.losses, rel=LABEL_LOSS_TOLERANCE)
    assert replayed[0].losses == pytest.approx(called[0].losses, rel=1e-3)


@pytest.mark.parametrize("shape", [(1,), (6, 1, 1, 1)], ids=["one step", "a step for each row"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_triton_kernels_quantize_as_plain_operations(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    value, gradient = (
        torch.randn(6, 32, 40, 50, generator=generator).to(
            "cuda", dtype, memory_format=torch.channels_last
        )
        for _ in range(2)
    )
    step = (torch.rand(shape, generator=generator) + 0.1).cuda()
    from trainables.quantization.quantizers.lsq_triton import triton_lsq  # imports Triton

    assert fused_way(value, step) is triton_lsq
    found = []
    for quantize in (lsq, triton_lsq):
        of_value, of_step = value.clone().requires_grad_(), step.clone().requires_grad_()
        result = quantize(of_value, of_step, -8, 7)
        found.append((result, *torch.autograd.grad(result, (of_value, of_step), gradient)))
    for plain, kernel, tolerance in zip(*found, (0.0, 0.0, 1e-3), strict=True):
        torch.testing.assert_close(kernel, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=["flips", "all"])
def test_a_step_does_not_wait_for_the_device(
    augmentation: Augmentation, blocks_run: ExecutionConfig
) -> None:
    task = TrialTask(config(START, augmentation), blocks_run.replace(device="cuda"))
    student = task.new_student()
    optimizer_loop = OptimizerLoop(student, AdamW(), 100, 1)
    for mode in ("default", "error"):  # what happens once only may wait
        torch.cuda.set_sync_debug_mode(mode)
        try:
            for batch in task.batches(1):
                outputs = forward_features(student, batch.images)
                optimizer_loop.step(cross_entropy(outputs.logits, batch.labels))
        finally:
            torch.cuda.set_sync_debug_mode("default")
