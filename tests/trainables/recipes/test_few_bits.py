"""Bits that are lowered in training, dampened weights, and BatchNorm that is estimated again."""

import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from factories import ShortTask
from torch import nn

from trainables.config import ExecutionConfig, TrialConfig
from trainables.losses.dampening import dampening_loss, dampening_weight
from trainables.models.configs import UNetConfig
from trainables.quantization.layers import QuantizedLayer
from trainables.quantization.quantizers.codebook import CodebookQuantizer
from trainables.quantization.quantizers.configs import Lsq, QuantizerName
from trainables.quantization.quantizers.lsq import StepQuantizer
from trainables.recipes.configs import AdamW, Qat, QatDistill, Recipe, Supervised
from trainables.training.cost import predict_size_bytes
from trainables.training.trial import Trial

FAST = AdamW(learning_rate=1e-2)
W2A4 = Lsq(weight_bits=2, activation_bits=4)
RECIPES = [
    Qat(quantizer=W2A4, optimizer=FAST),
    QatDistill(quantizer=W2A4, optimizer=FAST, self_study=0.5),
]


@pytest.fixture
def run(blocks_run: ExecutionConfig, teacher_file: Path) -> ExecutionConfig:
    return blocks_run.replace(teacher=teacher_file, checkpoint_every_s=0)


def quantized_layers(student: nn.Module) -> list[QuantizedLayer]:
    return [module for module in student.modules() if isinstance(module, QuantizedLayer)]


def bits_of(student: nn.Module) -> set[tuple[int, int]]:
    """The bits of the weights and inputs of all layers."""
    found = set()
    for layer in quantized_layers(student):
        assert layer.weight_quantizer is not None
        assert layer.input_quantizer is not None
        found.add((layer.weight_quantizer.bits, layer.input_quantizer.bits))
    return found


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_each_part_of_the_training_has_one_bit_fewer(recipe: Recipe, run: ExecutionConfig) -> None:
    task = ShortTask(recipe.replace(bit_descent=3), run, batch_size=8, num_epochs=6)
    task.ema_decay = 0.9
    found = []
    for epoch in task.config.recipe.train(task):
        assert len(quantized_layers(epoch.student)) > 2
        found.append(bits_of(epoch.student))
    assert found == [{(4, 6), (8, 8)}] * 2 + [{(3, 5), (8, 8)}] * 2 + [{(2, 4), (8, 8)}] * 2


@pytest.mark.parametrize("zero_point", range(9))
def test_a_grid_of_any_offset_can_lose_bits(zero_point: int) -> None:
    quantizer = StepQuantizer(4, (1,))
    quantizer.zero_point = zero_point
    for bits in (3, 2):
        quantizer.change_bits(bits)
        assert abs(quantizer.zero_point / 2**bits - zero_point / 16) <= 0.125
        assert (quantizer.zero_point == 0) == (zero_point / 8 * 2 ** (bits - 1) <= 0.5)
        restored = StepQuantizer(bits, (1,))
        restored.load_state_dict(quantizer.state_dict())
        assert restored.zero_point == quantizer.zero_point


def test_grids_are_calibrated_when_their_bits_change(run: ExecutionConfig) -> None:
    """Two bits on the grid of three would clip most weights."""
    recipe = RECIPES[0].replace(bit_descent=2, optimizer=AdamW(learning_rate=1e-12))
    task = ShortTask(recipe, run, batch_size=8, num_epochs=4)
    errors = []
    for epoch in recipe.train(task):
        layer = quantized_layers(epoch.student)[1]
        assert isinstance(layer.weight_quantizer, StepQuantizer)
        learned = layer.weight_quantizer.log_step.clone()
        layer.calibrate_weight()
        errors.append((layer.weight_quantizer.log_step - learned).abs().max().item())
        layer.weight_quantizer.log_step.data.copy_(learned)
    assert max(errors) < 0.05


@pytest.mark.parametrize(
    "recipe",
    [RECIPES[0], pytest.param(RECIPES[1], marks=pytest.mark.slow)],
    ids=lambda recipe: recipe.name,
)
def test_a_training_that_is_cut_off_while_bits_fall_goes_on_to_the_bit(
    recipe: Recipe, run: ExecutionConfig, tmp_path: Path
) -> None:
    changes = {"bit_descent": 3, "dampening": 1e-3, "norm_batches": 2}
    config = TrialConfig(
        student=UNetConfig(width=3, depth=2),
        recipe=recipe.replace(**changes, start=Supervised(optimizer=FAST), start_epochs=4),
        num_epochs=4,
        batch_size=8,
        ema_decay=0.9,
    )
    whole = Trial(config, run)
    expected = [metrics.losses for metrics in whole]
    cut_off = iter(Trial(config, run, tmp_path))
    next(cut_off), next(cut_off)
    del cut_off
    rest = Trial(config, run, tmp_path)
    losses = [metrics.losses for metrics in rest]
    assert losses == expected[-len(losses) :]
    assert rest.model_bytes == whole.model_bytes
    assert rest.model_bytes is not None
    assert len(rest.model_bytes) == predict_size_bytes(config, 5)


def test_the_dampening_loss_is_the_distance_to_the_grid() -> None:
    torch.manual_seed(0)
    quantizer = StepQuantizer(3, (4, 1, 1, 1))
    quantizer.log_step.data.fill_(math.log(0.1))
    layer = QuantizedLayer(nn.Conv2d(2, 4, 3), quantizer, None)
    weights = layer.layer.weight.data.normal_(0, 0.3)
    loss = dampening_loss(nn.Sequential(layer, nn.ReLU()))
    expected, gradients = 0.0, []
    for weight in weights.flatten().tolist():
        clipped = min(max(weight, -0.4), 0.3)
        distance = clipped - round(clipped / 0.1) * 0.1
        expected += distance**2
        gradients.append(2 * distance if clipped == weight else 0.0)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert layer.layer.weight.grad is not None
    assert quantizer.log_step.grad is None
    torch.testing.assert_close(
        layer.layer.weight.grad.flatten(), torch.tensor(gradients), atol=1e-5, rtol=0
    )


def test_the_grid_of_learned_points_ends_with_the_last_of_them() -> None:
    torch.manual_seed(0)
    quantizer = CodebookQuantizer(4, (4, 1, 1, 1))
    layer = QuantizedLayer(nn.Conv2d(2, 4, 3), quantizer, None)
    layer.calibrate_weight()
    loss = dampening_loss(layer)
    loss.backward()
    weight, ends = layer.layer.weight, quantizer.table[[0, -1]]
    with torch.no_grad():
        clipped = weight.clamp(ends[0] * quantizer.step, ends[1] * quantizer.step)
        expected = (quantizer(weight) - clipped).square().sum()
    torch.testing.assert_close(loss.detach(), expected)
    assert weight.grad is not None
    assert (weight.grad != 0).float().mean() > 0.7


@pytest.mark.parametrize("quantizer", get_args(QuantizerName))
def test_every_quantizer_takes_lowered_bits(quantizer: str, run: ExecutionConfig) -> None:
    bits = Lsq(weight_bits=4, activation_bits=4).of_kind(quantizer)
    recipe = RECIPES[0].replace(quantizer=bits, bit_descent=5)
    student = list(recipe.train(ShortTask(recipe, run, num_epochs=5)))[-1].student
    assert bits_of(student) == {(8, 8), (4, 4)}


def test_dampening_grows_along_half_a_cosine() -> None:
    weights = [dampening_weight(0.1, step, 8) for step in (0, 2, 4, 8)]
    assert weights == pytest.approx([0, 0.05 * (1 - math.sqrt(0.5)), 0.05, 0.1])


def test_dampened_weights_end_nearer_to_their_grid(run: ExecutionConfig) -> None:
    def distance(weight: float) -> float:
        recipe = RECIPES[0].replace(dampening=weight)
        epoch = list(recipe.train(ShortTask(recipe, run, num_epochs=4)))[-1]
        assert ("dampening" in epoch.losses) == (weight > 0)
        return dampening_loss(epoch.student).item()

    assert distance(10) < 0.5 * distance(0)


def test_batchnorm_s_statistics_are_those_of_the_last_weights(run: ExecutionConfig) -> None:
    recipe = RECIPES[0].replace(norm_batches=2)
    task = ShortTask(recipe, run, num_epochs=2)
    student = list(recipe.train(task))[-1].student
    norm = next(module for module in student.modules() if isinstance(module, nn.BatchNorm2d))
    seen = []
    norm.register_forward_pre_hook(lambda norm, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        student.train()
        batches = task.batches(1)
        kept = norm.running_mean
        assert kept is not None
        expected = kept.clone()
        for _ in range(2):
            student(next(batches).images)
    means = torch.stack([inputs.mean((0, 2, 3)) for inputs in seen])
    torch.testing.assert_close(expected, means.mean(0), rtol=1e-3, atol=1e-5)


def test_a_configuration_without_these_options_is_written_as_before() -> None:
    for recipe in RECIPES:
        written = recipe.model_dump(mode="json")
        assert written.keys().isdisjoint({"bit_descent", "dampening", "norm_batches"})
        assert recipe.replace(bit_descent=2).digest() != recipe.digest()
