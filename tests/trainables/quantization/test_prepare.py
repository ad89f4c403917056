"""Prepared networks: the bits of each layer, and equal predictions from prepare to file."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from trainables.models.configs import UNetConfig
from trainables.quantization.bits import LayerBits
from trainables.quantization.layers import QUANTIZABLE, QuantizedLayer
from trainables.quantization.prepare import calibrate, prepare, quantizable_names, quantize_layer
from trainables.quantization.quantizers.configs import Lsq
from trainables.quantization.quantizers.lsq import StepQuantizer
from trainables.recipes.configs import AdamW
from trainables.recipes.optimization import OptimizerLoop

STUDENT = UNetConfig(width=3, depth=2)


def quantized(quantizer: Lsq, student: UNetConfig = STUDENT) -> nn.Module:
    torch.manual_seed(0)
    model = prepare(student.build(5), quantizer)
    calibrate(model, torch.randn(2, 3, 16, 16))
    return model


def bits_of(model: nn.Module) -> dict[str, tuple[int | None, int | None]]:
    return {
        name: (
            module.weight_quantizer and module.weight_quantizer.bits,
            module.input_quantizer and module.input_quantizer.bits,
        )
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLayer)
    }


def test_first_and_last_layer_keep_eight_bits() -> None:
    names = quantizable_names(STUDENT.build(5))
    bits = bits_of(quantized(Lsq(weight_bits=2, activation_bits=3)))
    assert list(bits) == names
    assert bits[names[0]] == bits[names[-1]] == (8, 8)
    assert {bits[name] for name in names[1:-1]} == {(2, 3)}


def test_32_bits_are_off_everywhere() -> None:
    assert set(bits_of(quantized(Lsq(weight_bits=4, activation_bits=32))).values()) == {
        (8, None),
        (4, None),
    }
    assert set(bits_of(quantized(Lsq(weight_bits=32, activation_bits=32))).values()) == {
        (None, None)
    }


def test_a_layer_can_have_its_own_bits() -> None:
    name = quantizable_names(STUDENT.build(5))[2]
    layers = {name: LayerBits(weight_bits=5, activation_bits=6)}
    assert bits_of(quantized(Lsq(layers=layers)))[name] == (5, 6)


def test_an_unknown_layer_is_refused() -> None:
    layers = {"nothing": LayerBits(weight_bits=5, activation_bits=6)}
    with pytest.raises(ValueError, match="must name layers of the model, but got 'nothing'"):
        prepare(STUDENT.build(5), Lsq(layers=layers))


@pytest.mark.parametrize("bits", [0, 1, 9, 16, 33])
def test_impossible_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValidationError, match=f"2 to 8, or 32 for off, but got {bits}"):
        Lsq(weight_bits=bits)


def zero_points(model: nn.Module) -> list[int]:
    return [
        module.input_quantizer.zero_point
        for module in model.modules()
        if isinstance(module, QuantizedLayer) and module.input_quantizer
    ]


def test_inputs_are_unsigned_but_for_the_image() -> None:
    first, *others = zero_points(quantized(Lsq()))
    assert first == 128
    assert set(others) == {0}


def test_the_image_has_a_symmetric_grid_and_what_a_hard_swish_gives_has_an_offset() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)]
    layers[0].weight.data.mul_(4)
    model = prepare(nn.Sequential(*layers), Lsq())
    calibrate(model, 3 + torch.randn(2, 3, 16, 16))
    image, inner, _ = zero_points(model)
    assert image == 128
    assert 0 < inner <= 3


@pytest.mark.parametrize("training", [True, False])
def test_calibration_leaves_a_network_in_its_mode(training: bool) -> None:
    model = prepare(STUDENT.build(5), Lsq()).train(training)
    statistics = [buffer.clone() for buffer in model.buffers()]
    calibrate(model, torch.randn(2, 3, 16, 16))
    assert {module.training for module in model.modules()} == {training}
    assert all(map(torch.equal, statistics, model.buffers()))


def test_calibration_fits_the_weights_of_every_layer() -> None:
    layers = [m for m in quantized(Lsq()).modules() if isinstance(m, QuantizedLayer)]
    assert layers
    for layer in layers:
        assert layer.weight_quantizer is not None
        steps = layer.weight_quantizer.log_step
        fitted = StepQuantizer(layer.weight_quantizer.bits, tuple(steps.shape))
        fitted.calibrate(layer.layer.weight)
        assert torch.equal(steps, fitted.log_step)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 8, 8)),
        (nn.Conv2d(4, 6, 3, stride=2, dilation=2, padding_mode="reflect", padding=2), (2, 4, 8, 8)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (2, 4, 8, 8)),
        (nn.Linear(4, 6), (3, 4)),
    ],
)
def test_a_fine_grid_hardly_changes_a_layer(layer: nn.Module, shape: tuple[int, ...]) -> None:
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert isinstance(layer, QUANTIZABLE)
    wrapped = quantize_layer(layer, Lsq(), LayerBits(weight_bits=8, activation_bits=8))
    wrapped.calibrate_weight()
    wrapped.calibrate_inputs(inputs)
    assert wrapped.weight_quantizer is not None
    assert wrapped.weight_quantizer.step.numel() == 6
    expected = layer(inputs)
    assert (wrapped(inputs) - expected).norm() < 0.1 * expected.norm()


def test_layers_that_read_one_tensor_share_a_grid_of_the_most_bits() -> None:
    layers = {"decoder.0.0": LayerBits(weight_bits=4, activation_bits=6)}
    model = quantized(Lsq(activation_bits=3, layers=layers))
    encoder, decoder = (model.get_submodule(f"{name}.0") for name in ("encoder.2", "decoder.0"))
    assert isinstance(encoder, QuantizedLayer)
    assert isinstance(decoder, QuantizedLayer)
    assert encoder.input_quantizer is decoder.input_quantizer
    assert encoder.input_quantizer is not None
    assert encoder.input_quantizer.bits == 6
    optimizer_loop = OptimizerLoop(model, AdamW(), num_steps=10, accumulation_steps=1)
    parameters = [p for group in optimizer_loop.optimizer.param_groups for p in group["params"]]
    assert len(parameters) == len(set(parameters)) == len(list(model.parameters()))


def test_layers_that_read_one_tensor_leave_it_alone_where_one_is_off() -> None:
    layers = {"decoder.0.0": LayerBits(weight_bits=4, activation_bits=32)}
    assert bits_of(quantized(Lsq(layers=layers)))["encoder.2.0"] == (4, None)
