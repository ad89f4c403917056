"""Grids of buckets of weights, whose steps are integer multiples of their channel's."""

import pytest
import torch
from torch import Tensor, nn

from trainables.models.configs import UNetConfig
from trainables.models.model_file import ModelSpec, deserialize, serialize
from trainables.quantization.bits import LayerBits
from trainables.quantization.buckets import count_buckets, multiplier_bytes, over_weight
from trainables.quantization.convert import convert
from trainables.quantization.prepare import calibrate, prepare, quantize_layer
from trainables.quantization.quantizers.bucketed import BucketQuantizer
from trainables.quantization.quantizers.configs import Bucketed
from trainables.quantization.quantizers.lsq import StepQuantizer


def draw(*shape: int) -> Tensor:
    """Weights whose scale differs by input channel, as behind a normalisation."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator) * torch.logspace(-1, 0, shape[1])[:, None, None]


def test_weights_of_a_bucket_share_a_multiplier() -> None:
    multipliers = torch.tensor([[1, 2, 3], [4, 5, 6]])
    by_weight = over_weight(multipliers, torch.Size((2, 4, 3, 3)), 0)
    first, second = by_weight.flatten(1).tolist()
    assert first == 16 * [1] + 16 * [2] + 4 * [3]
    assert second == 16 * [4] + 16 * [5] + 4 * [6]


def test_channels_of_a_transposed_convolution_are_its_second_axis() -> None:
    multipliers = torch.tensor([[1, 2], [3, 4]])
    by_weight = over_weight(multipliers, torch.Size((6, 2, 2, 2)), 1)
    assert by_weight.shape == (6, 2, 2, 2)
    assert by_weight[:, 0].flatten().tolist() == 16 * [1] + 8 * [2]
    assert by_weight[:, 1].flatten().tolist() == 16 * [3] + 8 * [4]


@pytest.mark.parametrize(("num_channels", "num_weights"), [(1, 40), (3, 16), (5, 17)])
def test_multipliers_take_half_a_byte_each(num_channels: int, num_weights: int) -> None:
    num_buckets = num_channels * count_buckets(num_weights)
    assert multiplier_bytes(num_channels * num_weights, num_channels) == -(-num_buckets // 2)


@pytest.mark.parametrize(("bits", "share"), [(2, 0.7), (3, 0.55), (4, 0.55)])
def test_buckets_err_less_than_a_grid_for_each_channel(bits: int, share: float) -> None:
    weight, errors = draw(8, 16, 3, 3), []
    shape = (8, 1, 1, 1)
    for quantizer in (BucketQuantizer(bits, weight, shape), StepQuantizer(bits, shape)):
        quantizer.calibrate(weight)
        with torch.no_grad():
            errors.append(float((quantizer(weight) - weight).square().mean()))
    assert errors[0] < share * errors[1]


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_codes_fit_into_8_bits_also_while_bits_are_lowered(bits: int) -> None:
    weight = draw(8, 16, 3, 3)
    quantizer = BucketQuantizer(4, weight, (8, 1, 1, 1))
    quantizer.change_bits(bits)
    quantizer.calibrate(weight)
    assert quantizer.multipliers.min() >= 1
    assert quantizer.codes(100 * weight).abs().max() <= 127


@pytest.mark.parametrize("layer", [nn.Conv2d(1, 1, 5), nn.ConvTranspose2d(9, 1, 2, 2)])
def test_a_layer_of_one_output_channel_has_its_buckets(
    layer: nn.Conv2d | nn.ConvTranspose2d,
) -> None:
    bits = LayerBits(weight_bits=2, activation_bits=4)
    quantizer = quantize_layer(layer, Bucketed(), bits).weight_quantizer
    assert isinstance(quantizer, BucketQuantizer)
    assert quantizer.multipliers.shape == (1, count_buckets(layer.weight.numel()))


def test_depthwise_layers_and_more_bits_have_one_grid_for_each_channel() -> None:
    bits = LayerBits(weight_bits=2, activation_bits=4)
    depthwise, wide = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3)
    for layer, of_layer in ((depthwise, bits), (wide, bits.replace(weight_bits=5))):
        quantizer = quantize_layer(layer, Bucketed(), of_layer).weight_quantizer
        assert type(quantizer) is StepQuantizer


def test_what_was_learned_beyond_the_bounds_is_stored() -> None:
    torch.manual_seed(0)
    bits = Bucketed(weight_bits=2, activation_bits=4)
    student = UNetConfig(width=3, depth=2)
    network = prepare(student.build(5), bits).eval()
    images = torch.randn(2, 3, 16, 16)
    calibrate(network, images)
    found = 0
    for module in network.modules():
        if isinstance(module, BucketQuantizer):
            module.shares.data.uniform_(-0.3, 1.3)
            assert set(module.multipliers.unique().tolist()) <= set(range(1, 16))
            found += 1
    assert found
    content = serialize(network, ModelSpec(model=student, num_classes=5, quantizer=bits))
    with torch.no_grad():
        assert torch.equal(deserialize(content)(images), convert(network)(images))


def test_a_bucket_whose_weights_are_clipped_gets_a_larger_multiplier() -> None:
    weight = torch.full((1, 32), 0.1)
    weight[0, 16:] = 1.0
    quantizer = BucketQuantizer(2, weight, (1, 1))
    quantizer.calibrate(weight)
    with torch.no_grad():
        quantizer.shares.fill_(0.5)
        before = quantizer.multipliers.tolist()
    optimizer = torch.optim.SGD([quantizer.shares], lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        (quantizer(weight) - weight).square().sum().backward()
        optimizer.step()
    after = quantizer.multipliers.tolist()
    assert before == [[8, 8]]
    assert after[0][0] < 8 < after[0][1]
