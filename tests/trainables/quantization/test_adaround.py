"""Learned rounding: weights at the floor or the ceiling, with less error of each layer's output."""

import copy
from typing import get_args

import pytest
import torch
from calibration_networks import random_images, unequal_network
from torch import Tensor, nn

from trainables.core.progress import progress_to
from trainables.quantization.adaround import (
    by_output_channel,
    from_output_channels,
    learn_rounding,
    output_error,
    round_layer,
)
from trainables.quantization.bits import LayerBits
from trainables.quantization.convert import convert
from trainables.quantization.layers import QUANTIZABLE, QuantizedLayer, apply_layer
from trainables.quantization.paired_forward import LayerInputs
from trainables.quantization.prepare import calibrate, prepare, quantize_layer
from trainables.quantization.quantizers.base import Quantizer
from trainables.quantization.quantizers.configs import DEFAULT_QUANTIZER, Lsq, QuantizerName

LAYERS = [
    (nn.Conv2d(4, 6, 3, padding=1, groups=2), (3, 4, 8, 8)),
    (nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6, bias=False), (3, 6, 8, 8)),
    (nn.Conv2d(4, 6, 3, dilation=2, padding_mode="reflect", padding=2), (3, 4, 8, 8)),
    (nn.Conv2d(4, 6, 3, padding="same"), (3, 4, 8, 8)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (3, 4, 8, 8)),
    (nn.Linear(16, 6), (9, 16)),
]


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.quantization.adaround.NUM_STEPS", 300)


def make_pair(
    layer: nn.Module,
    shape: tuple[int, ...],
    bits: int = 3,
    quantizer: Quantizer = DEFAULT_QUANTIZER,
) -> LayerInputs:
    """A calibrated layer whose inputs are positive, correlated and disturbed by quantization."""
    torch.manual_seed(0)
    assert isinstance(layer, QUANTIZABLE)
    layer.reset_parameters()
    inputs = torch.rand(shape) + torch.rand(shape[:1] + (1,) * (len(shape) - 1))
    disturbed = (inputs + 0.05 * torch.randn(shape)).relu()
    quantized = quantize_layer(
        copy.deepcopy(layer), quantizer, LayerBits(weight_bits=bits, activation_bits=8)
    )
    quantized.calibrate_weight()
    quantized.calibrate_inputs(disturbed)
    return LayerInputs("layer", layer, quantized, inputs, disturbed)


def squared_error(pair: LayerInputs) -> float:
    """Of the quantized layer's output."""
    difference = pair.quantized(pair.quantized_inputs) - pair.layer(pair.inputs)
    return float(difference.square().sum())


@pytest.mark.parametrize("is_centred", [True, False])
@pytest.mark.parametrize(("layer", "shape"), LAYERS)
@torch.no_grad()
def test_the_quadratic_form_is_the_squared_error(
    layer: nn.Module, shape: tuple[int, ...], is_centred: bool
) -> None:
    pair = make_pair(layer, shape)
    quantized = pair.quantized
    assert quantized.weight_quantizer is not None
    assert quantized.input_quantizer is not None
    rounded = quantized.weight_quantizer(quantized.layer.weight)
    change = by_output_channel(quantized.layer, rounded - quantized.layer.weight)
    read = quantized.input_quantizer(pair.quantized_inputs)
    outputs = apply_layer(quantized.layer, read, rounded)
    axis = -1 if isinstance(layer, nn.Linear) else 1
    errors = (outputs - pair.layer(pair.inputs)).movedim(axis, 0).flatten(1)
    if is_centred:
        errors = errors - errors.mean(1, keepdim=True)
    got = output_error(pair, is_centred)(change).flatten()
    torch.testing.assert_close(got, errors.square().sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
@torch.no_grad()
def test_rounding_reduces_the_error_of_a_layer(layer: nn.Module, shape: tuple[int, ...]) -> None:
    pair = make_pair(layer, shape)
    quantizer = pair.quantized.weight_quantizer
    assert quantizer is not None
    original, to_nearest = pair.quantized.layer.weight.clone(), squared_error(pair)
    step = quantizer.step.clone()
    round_layer(pair)
    assert squared_error(pair) < 0.9 * to_nearest
    assert torch.equal(quantizer.step, step)
    weight = pair.quantized.layer.weight
    codes = quantizer.codes(weight)
    torch.testing.assert_close(codes * step, weight)
    scaled = (original / step).clamp(quantizer.low, quantizer.high)
    assert ((codes == scaled.floor()) | (codes == scaled.ceil())).all()
    assert (codes != scaled.round()).any()


KEEPING = [name for name in get_args(QuantizerName) if Quantizer.members()[name].keeps_points]


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.parametrize("layer", [LAYERS[0][0], LAYERS[2][0]])
@torch.no_grad()
def test_weights_of_every_quantizer_stay_at_the_points_that_were_chosen(
    layer: nn.Module, name: str
) -> None:
    pair = make_pair(layer, (3, 4, 8, 8), bits=2, quantizer=Lsq().of_kind(name))
    quantizer, inner = pair.quantized.weight_quantizer, pair.quantized.layer
    assert quantizer is not None
    original, to_nearest = inner.weight.clone(), squared_error(pair)
    below, above = quantizer.neighbours(original)
    least, greatest = quantizer.ends
    clipped = torch.maximum(torch.minimum(original, greatest), least)
    assert ((below <= clipped + 1e-6) & (clipped <= above + 1e-6)).all()
    round_layer(pair)
    assert ((inner.weight == below) | (inner.weight == above)).float().mean() > 0.99
    torch.testing.assert_close(quantizer(inner.weight), inner.weight)
    assert squared_error(pair) < to_nearest


@torch.no_grad()
def test_the_rounding_of_few_weights_is_nearly_the_best() -> None:
    pair = make_pair(nn.Conv2d(2, 4, 2), (3, 2, 6, 6))
    quantizer, layer = pair.quantized.weight_quantizer, pair.quantized.layer
    assert quantizer is not None
    weight, step = by_output_channel(layer, layer.weight), quantizer.step.view(1, -1, 1)
    floor = (weight / step).clamp(quantizer.low, quantizer.high).floor()
    error = output_error(pair)
    candidates = [
        error((floor + torch.tensor([index >> bit & 1 for bit in range(8)])) * step - weight)
        for index in range(256)
    ]
    best = torch.stack(candidates).amin(0)
    round_layer(pair)
    learned = error(by_output_channel(layer, layer.weight) - weight)
    nearest = error((weight / step).clamp(quantizer.low, quantizer.high).round() * step - weight)
    assert ((learned - best) <= 0.2 * (nearest - best) + 1e-4).all()


def layer_distance(model: nn.Module, reference: nn.Module, layer: str) -> float:
    """Of a layer's output in two networks, on other images than those of the calibration."""
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    outputs: list[Tensor] = []
    for network in (model, reference):
        network.get_submodule(layer).register_forward_hook(lambda _, __, out: outputs.append(out))
        with torch.no_grad():
            network(images)
    return float((outputs[0] - outputs[1]).norm())


@pytest.mark.parametrize("with_norm", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_layers_come_closer_to_full_precision(with_norm: bool) -> None:
    reference = unequal_network(nn.ReLU6, with_norm)
    model = prepare(copy.deepcopy(reference), Lsq(weight_bits=3, activation_bits=8)).train()
    calibrate(model, random_images())
    rounded = copy.deepcopy(model)
    lines: list[str] = []
    ends: list[int] = []
    with progress_to(lines.append, every_s=0):
        learn_rounding(rounded, reference, random_images(), False, lambda: ends.append(len(lines)))
    assert rounded.training
    num_layers = sum(isinstance(module, QuantizedLayer) for module in rounded.modules())
    assert ends == list(range(2, num_layers + 2))  # each is reported before anything else is
    assert lines[0] == f"learning the rounding of weights: layer 1 of {num_layers}"
    distances = [layer_distance(m.eval(), reference, "project.0") for m in (model, rounded)]
    assert distances[1] < 0.9 * distances[0]
    images = random_images()
    with torch.no_grad():
        torch.testing.assert_close(convert(rounded)(images), rounded(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("with_norm", [pytest.param(True, marks=pytest.mark.slow), False])
def test_biases_are_corrected_on_the_way(with_norm: bool) -> None:
    reference = unequal_network(nn.ReLU6, with_norm)
    model = prepare(copy.deepcopy(reference), Lsq(weight_bits=3, activation_bits=8))
    calibrate(model, random_images())
    learn_rounding(model, reference, random_images(), corrects_biases=True)
    means: list[Tensor] = []
    with torch.no_grad():
        for network in (model.eval(), reference):
            network.get_submodule("project.1").register_forward_hook(
                lambda _, __, outputs: means.append(outputs.mean((0, 2, 3)))
            )
            network(random_images())
    torch.testing.assert_close(*means, rtol=1e-4, atol=1e-4)


def test_full_precision_weights_stay() -> None:
    reference = unequal_network()
    model = prepare(copy.deepcopy(reference), Lsq(weight_bits=32, activation_bits=4))
    calibrate(model, random_images())
    learn_rounding(model, reference, random_images())
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLayer):
            assert torch.equal(layer.layer.weight, reference.get_submodule(name).weight)


def test_a_layer_of_too_many_weights_is_rounded_to_nearest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trainables.quantization.adaround.MAX_WEIGHTS", 35)
    pair = make_pair(nn.Conv2d(4, 6, 3), (3, 4, 8, 8))
    before = pair.quantized.layer.weight.clone()
    round_layer(pair)
    assert torch.equal(pair.quantized.layer.weight, before)
    assert "layer stays rounded to nearest: it has 36 weights" in caplog.text


def test_weights_by_output_channel_come_back() -> None:
    for layer, _ in LAYERS:
        assert isinstance(layer, QUANTIZABLE)
        by_channel = by_output_channel(layer, layer.weight)
        assert torch.equal(from_output_channels(layer, by_channel), layer.weight)
