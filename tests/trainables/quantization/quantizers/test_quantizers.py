"""The contract that every quantizer keeps, also one from outside the package."""

from typing import get_args

import pytest
import torch
from compact_networks import compacted
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import TrialConfig
from trainables.models.configs import UNetConfig
from trainables.models.model_file import deserialize, serialize
from trainables.quantization.bits import LayerBits
from trainables.quantization.buckets import over_weight
from trainables.quantization.convert import ConvertedLayer, convert
from trainables.quantization.layers import QuantizedLayer
from trainables.quantization.prepare import calibrate, prepare, quantize_layer
from trainables.quantization.quantizers.base import Quantizer
from trainables.quantization.quantizers.configs import QuantizerName
from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer
from trainables.recipes.configs import Ptq
from trainables.training.cost import model_spec, predict_size_bytes

QUANTIZERS = [kind.model_validate({"name": name}) for name, kind in Quantizer.members().items()]

every_quantizer = pytest.mark.parametrize("config", QUANTIZERS, ids=lambda config: config.name)
every_width = pytest.mark.parametrize("bits", [2, 3, 5, 8])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def for_weights(config: Quantizer, bits: int) -> tuple[FakeQuantizer, Tensor]:
    weight = draw(6, 4, 3, 3) * torch.logspace(-3, -1, 6)[:, None, None, None]
    quantizer = config.build_weight_quantizer(bits, weight, (6, 1, 1, 1))
    quantizer.calibrate(weight)
    return quantizer, weight


INPUTS = {
    "none": draw(2, 4, 8, 8),
    "relu": draw(2, 4, 8, 8).relu(),
    "hardswish": F.hardswish(2 * draw(2, 4, 8, 8)),
}
"""Values by the activation function that they come from."""
every_activation = pytest.mark.parametrize("activation", INPUTS)


def for_inputs(config: Quantizer, bits: int, activation: str) -> tuple[FakeQuantizer, Tensor]:
    value = INPUTS[activation]
    quantizer = config.build_input_quantizer(bits)
    quantizer.calibrate_offset(value)
    return quantizer, value


def test_quantizers_are_found() -> None:
    assert {config.name for config in QUANTIZERS} >= set(get_args(QuantizerName))


@every_quantizer
@every_width
@every_activation
def test_values_lie_on_the_grid_of_their_codes(
    config: Quantizer, bits: int, activation: str
) -> None:
    for quantizer, value in (for_weights(config, bits), for_inputs(config, bits, activation)):
        codes = quantizer.codes(value)
        table, multipliers = quantizer.table, quantizer.multipliers
        points = range(quantizer.low, quantizer.high + 1) if table is None else table.tolist()
        assert len(points) == 2**bits
        of_grid = codes
        if multipliers is not None:
            of_grid = codes / over_weight(multipliers, value.shape, 0)
            assert codes.abs().max() <= 127
        assert set(of_grid.unique().tolist()) <= set(points)
        assert (quantizer.step > 0).all()
        torch.testing.assert_close(quantizer(value), codes * quantizer.step)
        least, greatest = quantizer.ends
        tolerance = 1e-3 * quantizer.step
        assert (quantizer(value) >= least - tolerance).all()
        assert (quantizer(value) <= greatest + tolerance).all()


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
@every_activation
def test_its_state_brings_back_the_grid(config: Quantizer, activation: str) -> None:
    quantizer, value = for_inputs(config, 4, activation)
    other = config.build_input_quantizer(4)
    other.load_state_dict(quantizer.state_dict())
    assert other.zero_point == quantizer.zero_point
    assert torch.equal(other(value), quantizer(value))


@every_quantizer
@every_width
@every_activation
def test_the_shipped_layer_computes_the_same(config: Quantizer, bits: int, activation: str) -> None:
    torch.manual_seed(0)
    layer = quantize_layer(
        nn.Conv2d(4, 6, 3), config, LayerBits(weight_bits=bits, activation_bits=bits)
    )
    assert isinstance(layer, QuantizedLayer)
    inputs = INPUTS[activation]
    layer.calibrate_weight()
    layer.calibrate_inputs(inputs)
    shipped = ConvertedLayer(layer, None)
    with torch.no_grad():
        torch.testing.assert_close(shipped(inputs), layer(inputs))


@every_quantizer
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_its_file_has_the_length_that_is_known_before_and_computes_the_same(
    config: Quantizer, bits: int
) -> None:
    torch.manual_seed(0)
    student, quantizer = UNetConfig(width=3, depth=2), config.replace(weight_bits=bits)
    network, images = prepare(student.build(5), quantizer).eval(), draw(2, 3, 16, 16)
    calibrate(network, images)
    trial = TrialConfig(student=student, recipe=Ptq(quantizer=quantizer), num_epochs=1)
    spec = model_spec(trial, 5)
    content = serialize(network, spec)
    assert len(content) == predict_size_bytes(trial, 5)
    exact = serialize(network, spec.replace(format=2))
    with torch.no_grad():
        assert torch.equal(deserialize(exact)(images), convert(network)(images))
        assert torch.equal(deserialize(content)(images), compacted(network)(images))


@every_quantizer
def test_few_integers_of_a_grid_are_negative_where_few_values_are(config: Quantizer) -> None:
    zero_points = {name: for_inputs(config, 4, name)[0].zero_point for name in INPUTS}
    assert zero_points["relu"] == 0
    assert 0 < zero_points["hardswish"] <= 3
    assert 6 <= zero_points["none"] <= 8
