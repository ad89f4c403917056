"""Conversion: prepare -> train -> convert -> file, with the predictions of the trained network."""

import pytest
import torch
from torch import nn

from trainables.models.configs import UNetConfig
from trainables.models.model_file import ModelSpec, deserialize, serialize
from trainables.quantization.bits import LayerBits
from trainables.quantization.convert import ConvertedLayer, convert
from trainables.quantization.layers import QuantizedLayer
from trainables.quantization.prepare import calibrate, prepare, quantize_layer
from trainables.quantization.quantizers.configs import Lsq

BITS = [(8, 8), (4, 4), (2, 3), (3, 32), (32, 4), (32, 32)]


def trained(quantizer: Lsq | None, student: UNetConfig) -> nn.Module:
    """A network whose normalisations have all signs of gamma and real statistics."""
    torch.manual_seed(0)
    model = student.build(5)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    if quantizer:
        prepare(model, quantizer)
        calibrate(model, torch.randn(2, 3, 16, 16))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        model(torch.randn(2, 3, 16, 16)).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
@pytest.mark.parametrize(("weight_bits", "activation_bits"), BITS)
def test_a_shipped_network_predicts_what_the_trained_one_does(
    upsampling: str, weight_bits: int, activation_bits: int
) -> None:
    student = UNetConfig.model_validate({"width": 3, "depth": 2, "upsampling": upsampling})
    quantizer = Lsq(weight_bits=weight_bits, activation_bits=activation_bits)
    model = trained(quantizer, student)
    card = ModelSpec(model=student, num_classes=5, quantizer=quantizer)
    loaded = deserialize(serialize(model, card))
    images = torch.randn(4, 3, 24, 40)
    with torch.no_grad():
        expected, got = model(images), loaded(images)
        assert torch.equal(convert(model)(images), got)
    assert (expected.argmax(1) != got.argmax(1)).float().mean() < 1e-3
    assert (expected - got).abs().median() <= 1e-5 * expected.abs().max()


def test_nothing_of_training_is_shipped_and_the_trained_network_is_left_alone() -> None:
    model = trained(Lsq(), UNetConfig(width=3, depth=2))
    before = {
        name: value.clone() for name, value in model.state_dict().items() if "extra" not in name
    }
    shipped = convert(model)
    kinds = {type(module) for module in shipped.modules()}
    assert ConvertedLayer in kinds
    assert not kinds & {nn.BatchNorm2d, QuantizedLayer}
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_codes_stay_in_range_where_gamma_is_negative() -> None:
    conv, norm = nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3)
    nn.init.constant_(norm.weight, -2.0)
    quantized = quantize_layer(conv, Lsq(), LayerBits(weight_bits=2, activation_bits=32))
    with torch.no_grad():
        conv.weight[0, 0] = -10  # beyond the lowest code, -2: its negative is no code
    layer = ConvertedLayer(quantized, norm.eval())
    assert layer.codes is not None
    assert layer.step is not None
    assert (layer.step < 0).all()
    assert layer.codes.min() == -2
    assert layer.codes.max() <= 1
    images = torch.randn(1, 2, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(layer(images), norm(quantized(images)))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_with_a_bias_of_its_own_is_folded(bias: bool) -> None:
    layer, norm = nn.ConvTranspose2d(2, 3, 2, stride=2, bias=bias), nn.BatchNorm2d(3)
    norm.running_mean, norm.running_var = torch.randn(3), torch.rand(3) + 0.5
    model = nn.Sequential(
        quantize_layer(layer, Lsq(), LayerBits(weight_bits=4, activation_bits=4)), norm, nn.ReLU()
    ).eval()
    images = torch.rand(1, 2, 4, 4)
    model[0].calibrate_inputs(images)
    with torch.no_grad():
        torch.testing.assert_close(convert(model)(images), model(images))
