"""Equalized networks compute what they did, with weights whose channels have equal ranges."""

import copy

import pytest
import torch
from calibration_networks import random_images, unequal_network
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models.base import to_device
from trainables.models.configs import UNetConfig
from trainables.quantization.equalization import LayerPair, equalize, find_pairs
from trainables.quantization.layers import QuantizableLayer
from trainables.quantization.prepare import quantizable_names


def assert_same_function(model: nn.Module, other: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        expected, got = model(images), other(images)
    assert (expected - got).abs().max() <= 1e-5 * expected.abs().max()


def folded_weight(layer: QuantizableLayer, norm: nn.BatchNorm2d | None) -> Tensor:
    if norm is None:
        return layer.weight
    assert norm.running_var is not None
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    return layer.weight * gain.view(-1, 1, 1, 1)


def weight_ranges(pair: LayerPair) -> tuple[Tensor, Tensor]:
    """Of the channels between two convolutions, the second of which is depthwise or dense."""
    first = folded_weight(pair.first, pair.first_norm).abs().flatten(1).amax(1)
    second = folded_weight(pair.second, pair.second_norm).abs()
    is_depthwise = second.shape[1] == 1
    return first, second.flatten(1).amax(1) if is_depthwise else second.amax((0, 2, 3))


@pytest.mark.parametrize("with_norm", [True, False])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.Identity])
def test_the_function_stays(activation: type[nn.Module], with_norm: bool) -> None:
    model, images = unequal_network(activation, with_norm), random_images()
    equalized = copy.deepcopy(model)
    equalize(equalized, images)
    assert not torch.equal(model.project[0].weight, equalized.project[0].weight)
    assert_same_function(model, equalized, images)


@pytest.mark.parametrize("with_norm", [True, False])
def test_ranges_of_channels_become_equal(with_norm: bool) -> None:
    model = unequal_network(nn.ReLU, with_norm)
    before = [weight_ranges(pair) for pair in find_pairs(model)]
    assert all((first / second).log().abs().max() > 0.5 for first, second in before)
    equalize(model, random_images())
    pairs = find_pairs(model)
    assert [(pair.first, pair.second) for pair in pairs] == [
        (model.expand[0][0], model.depthwise[0][0]),
        (model.depthwise[0][0], model.project[0]),
    ]
    for first, second in map(weight_ranges, pairs):
        torch.testing.assert_close(first, second, rtol=0.01, atol=0)


def test_a_channel_that_relu6_clips_keeps_its_scale() -> None:
    model, images = unequal_network(nn.ReLU6), random_images()
    with torch.no_grad():
        model.expand[0][0].weight.mul_(5)
        inputs = model.stem(images)
        is_clipped = (model.expand[0][0](inputs) > 6).amax((0, 2, 3))
    assert 0 < is_clipped.sum() < len(is_clipped)
    equalized = copy.deepcopy(model)
    equalize(equalized, images)
    is_equal = (equalized.expand[0][0].weight == model.expand[0][0].weight).flatten(1).all(1)
    assert torch.equal(is_equal, is_clipped)
    assert_same_function(model, equalized, images)
    with torch.no_grad():
        assert equalized.expand[0][0](equalized.stem(images))[:, ~is_clipped].max() <= 6.001


@pytest.mark.parametrize("kind", ["plain", "norm", "linear", "functional"])
def test_high_biases_move_to_the_next_layer(kind: str) -> None:
    torch.manual_seed(0)
    images = random_images()
    first, second = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 3)
    model: nn.Module = nn.Sequential(first, nn.ReLU(), second)
    shifted: nn.Module = first
    if kind == "functional":
        model = Functional(first, second)
    elif kind == "linear":
        shifted, images = nn.Linear(3, 5), torch.randn(7, 3)
        model = nn.Sequential(shifted, nn.ReLU(), nn.Linear(5, 2))
    elif kind == "norm":
        shifted = nn.BatchNorm2d(5)
        first, second = nn.Conv2d(3, 5, 3, bias=False), nn.Conv2d(5, 2, 3, bias=False)
        model = nn.Sequential(first, shifted, nn.ReLU(), second, nn.BatchNorm2d(2))
    with torch.no_grad():
        shifted.get_parameter("bias").add_(10)
    equalized = copy.deepcopy(model.eval())
    equalize(equalized, images)
    assert_same_function(model, equalized, images)
    seen: list[Tensor] = []
    (pair,) = find_pairs(equalized)
    pair.second.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    equalized(images)
    lowest = seen[0].movedim(1, 0).flatten(1).amin(1)
    torch.testing.assert_close(lowest, torch.zeros(5), rtol=0, atol=1e-4)


class Functional(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.second(F.relu(self.first(images)))
        return outputs


def test_biases_do_not_move_into_a_layer_that_pads() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).eval()
    with torch.no_grad():
        model[0].bias += 10
    equalized = copy.deepcopy(model)
    equalize(equalized, random_images())
    assert_same_function(model, equalized, random_images())


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
def test_a_student_computes_what_it_did(upsampling: str) -> None:
    torch.manual_seed(0)
    config = UNetConfig.model_validate({"width": 4, "depth": 2, "upsampling": upsampling})
    student = to_device(config.build(5), torch.device("cpu"))
    equalized = copy.deepcopy(student)
    equalize(equalized, random_images())
    assert equalized.training
    assert len(find_pairs(student)) >= 5  # one of each block of two convolutions
    assert quantizable_names(equalized) == quantizable_names(student)
    assert_same_function(student.eval(), equalized.eval(), random_images())


def test_layers_are_no_pair_where_another_reads_between_them() -> None:
    layer = nn.Conv2d(4, 4, 1)
    assert find_pairs(nn.Sequential(layer, nn.ReLU(), layer)) == []
    assert find_pairs(nn.Sequential(layer, nn.MaxPool2d(2), nn.Conv2d(4, 4, 1))) == []
    assert (
        find_pairs(nn.Sequential(layer, nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 1))) == []
    )
