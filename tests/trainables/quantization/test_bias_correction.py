"""Corrected layers have outputs of the same mean as in full precision."""

import copy

import pytest
import torch
from calibration_networks import random_images, unequal_network
from torch import nn

from trainables.models.configs import UNetConfig
from trainables.quantization.bias_correction import correct_biases
from trainables.quantization.prepare import calibrate, prepare
from trainables.quantization.quantizers.configs import Lsq

BITS = Lsq(weight_bits=3, activation_bits=8)


def output_means(model: nn.Module, names: list[str]) -> dict[str, torch.Tensor]:
    means: dict[str, torch.Tensor] = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: means.__setitem__(name, out.mean((0, 2, 3)))
        )
    with torch.no_grad():
        model(random_images())
    return means


@pytest.mark.parametrize("with_norm", [True, False])
def test_mean_outputs_become_equal(with_norm: bool) -> None:
    reference = unequal_network(nn.ReLU6, with_norm)
    model = prepare(copy.deepcopy(reference), BITS)
    calibrate(model, random_images())
    corrected = copy.deepcopy(model)
    correct_biases(corrected, reference, random_images())
    # the last modules of their containers, which are not called where additions are quantized
    names = ["stem.0.1", "expand.0.1", "depthwise.0.1", "project.1", "head"]
    expected = output_means(reference, names)
    before, after = output_means(model, names), output_means(corrected, names)
    for name in names:
        assert name in ("stem.0.1", "head") or (before[name] - expected[name]).abs().max() > 1e-3
        torch.testing.assert_close(after[name], expected[name], rtol=1e-4, atol=1e-4)


def test_nothing_but_biases_and_means_changes() -> None:
    torch.manual_seed(0)
    reference = UNetConfig(width=3, depth=2).build(5)
    model = prepare(copy.deepcopy(reference), BITS)
    calibrate(model, random_images())
    corrected = copy.deepcopy(model)
    correct_biases(corrected, reference.eval(), random_images())
    assert corrected.training
    changed = {
        name.rpartition(".")[2]
        for name, value in model.state_dict().items()
        if not torch.equal(value, corrected.state_dict()[name])
    }
    assert changed == {"running_mean", "bias"}


def test_a_layer_without_a_bias_is_left_alone() -> None:
    reference = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1))
    model = prepare(copy.deepcopy(reference), BITS)
    calibrate(model, random_images())
    correct_biases(model, reference.eval(), random_images())
    assert model.get_submodule("0.layer").bias is None
