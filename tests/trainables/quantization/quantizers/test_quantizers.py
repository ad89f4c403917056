"""The contract that every quantizer keeps, also one from outside the package."""

import pytest
import torch
from torch import Tensor, nn

from trainables.quantization.bits import LayerBits
from trainables.quantization.convert import ConvertedLayer
from trainables.quantization.layers import QuantizedLayer
from trainables.quantization.prepare import quantize_layer
from trainables.quantization.quantizers.base import Quantizer
from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer

QUANTIZERS = [kind.model_validate({"name": name}) for name, kind in Quantizer.members().items()]

every_quantizer = pytest.mark.parametrize("config", QUANTIZERS, ids=lambda config: config.name)
every_width = pytest.mark.parametrize("bits", [2, 3, 5, 8])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def for_weights(config: Quantizer, bits: int) -> tuple[FakeQuantizer, Tensor]:
    weight = draw(6, 4, 3, 3) * torch.logspace(-2, 1, 6)[:, None, None, None]
    quantizer = config.build_weight_quantizer(bits, weight, (6, 1, 1, 1))
    quantizer.calibrate(weight)
    return quantizer, weight


def for_inputs(config: Quantizer, bits: int, signed: bool) -> tuple[FakeQuantizer, Tensor]:
    value = draw(2, 4, 8, 8) if signed else draw(2, 4, 8, 8).relu()
    quantizer = config.build_input_quantizer(bits)
    quantizer.signed = signed
    quantizer.calibrate(value)
    return quantizer, value


def test_quantizers_are_found() -> None:
    assert "lsq" in {config.name for config in QUANTIZERS}


@every_quantizer
@every_width
@pytest.mark.parametrize("signed", [False, True])
def test_values_lie_on_the_grid_of_their_codes(config: Quantizer, bits: int, signed: bool) -> None:
    for quantizer, value in (for_weights(config, bits), for_inputs(config, bits, signed)):
        codes = quantizer.codes(value)
        assert quantizer.high - quantizer.low == 2**bits - 1
        assert codes.min() >= quantizer.low
        assert codes.max() <= quantizer.high
        assert (quantizer.step > 0).all()
        torch.testing.assert_close(quantizer(value), codes * quantizer.step)


@every_quantizer
def test_more_bits_err_less(config: Quantizer) -> None:
    errors = []
    for bits in (2, 4, 8):
        quantizer, value = for_weights(config, bits)
        errors.append(float(((quantizer(value) - value) / value.std()).norm().detach()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]


@every_quantizer
@every_width
def test_gradients_reach_the_values_and_what_it_learns(config: Quantizer, bits: int) -> None:
    quantizer, weight = for_weights(config, bits)
    value = weight.clone().requires_grad_()
    quantizer(value).square().sum().backward()
    assert value.grad is not None
    assert value.grad.abs().sum() > 0
    learned = dict(quantizer.learned_parameters())
    assert set(learned) <= set(quantizer.parameters())
    assert all(factor > 0 for factor in learned.values())
    assert all(parameter.grad is not None for parameter in learned)


@every_quantizer
def test_its_state_brings_back_the_grid(config: Quantizer) -> None:
    quantizer, value = for_inputs(config, 4, signed=False)
    other = config.build_input_quantizer(4)
    other.load_state_dict(quantizer.state_dict())
    assert other.signed == quantizer.signed
    assert torch.equal(other(value), quantizer(value))


@every_quantizer
@every_width
def test_the_shipped_layer_computes_the_same(config: Quantizer, bits: int) -> None:
    torch.manual_seed(0)
    layer = quantize_layer(
        nn.Conv2d(4, 6, 3), config, LayerBits(weight_bits=bits, activation_bits=bits)
    )
    assert isinstance(layer, QuantizedLayer)
    inputs = draw(2, 4, 8, 8).relu()
    layer.calibrate_weight()
    layer.calibrate_inputs(inputs)
    shipped = ConvertedLayer(layer, None)
    with torch.no_grad():
        torch.testing.assert_close(shipped(inputs), layer(inputs))
