"""What layers read in a network and in its quantized copy, while both run."""

import copy

import pytest
import torch
from calibration_networks import random_images, unequal_network
from torch import Tensor, nn

from trainables.models.configs import UNetConfig
from trainables.quantization.layers import QuantizedLayer
from trainables.quantization.paired_forward import paired_layer_inputs
from trainables.quantization.prepare import calibrate, prepare
from trainables.quantization.quantizers.configs import Lsq


def read_by_layers(model: nn.Module, names: list[str]) -> list[Tensor]:
    seen: list[Tensor] = []
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0].clone())
        )
    model(random_images())
    return seen


@pytest.mark.parametrize("student", [True, False])
@torch.no_grad()
def test_inputs_are_those_of_two_forward_passes(student: bool) -> None:
    torch.manual_seed(0)
    reference = UNetConfig(width=3, depth=2).build(5).eval() if student else unequal_network()
    model = prepare(copy.deepcopy(reference), Lsq(weight_bits=3, activation_bits=4)).eval()
    calibrate(model, random_images())
    pairs = [
        (pair.name, pair.inputs.clone(), pair.quantized_inputs.clone())
        for pair in paired_layer_inputs(reference, model, random_images())
    ]
    names = [name for name, *_ in pairs]
    layers = [name for name, m in model.named_modules() if isinstance(m, QuantizedLayer)]
    assert sorted(names) == sorted(layers)
    for network, column in ((reference, 1), (model, 2)):
        for expected, pair in zip(read_by_layers(network, names), pairs, strict=True):
            assert torch.equal(expected, pair[column])


@torch.no_grad()
def test_a_changed_layer_changes_what_later_ones_read() -> None:
    reference = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    model = prepare(copy.deepcopy(reference), Lsq())
    calibrate(model, random_images())
    first, second = [], []
    for pair in paired_layer_inputs(reference, model, random_images()):
        first.append(pair.inputs)
        second.append(pair.quantized_inputs)
        nn.init.zeros_(pair.quantized.layer.weight)
        assert pair.quantized.layer.bias is not None
        nn.init.zeros_(pair.quantized.layer.bias)
    assert first[1].any()
    assert not second[1].any()


@torch.no_grad()
def test_a_layer_that_is_called_twice_is_left_out() -> None:
    twice = nn.Conv2d(3, 3, 1)
    reference = nn.Sequential(twice, nn.ReLU(), twice, nn.Conv2d(3, 2, 1)).eval()
    model = prepare(copy.deepcopy(reference), Lsq())
    calibrate(model, random_images())
    pairs = paired_layer_inputs(reference, model, random_images())
    assert [pair.name for pair in pairs] == ["3"]
