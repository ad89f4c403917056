"""Layers of an outline against those that PyTorch builds."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from trainables.models.base import Network
from trainables.models.configs import UNetConfig
from trainables.models.outline import build_outline
from trainables.quantization.shapes import options_of


class OneLayer(NamedTuple):
    """The configuration of a network that is whatever a function builds."""

    layer: Callable[[], nn.Module]

    def build(self, num_classes: int) -> Network:
        network = Network()
        network.layer = self.layer()
        return network


def outline(build: Callable[[], nn.Module]) -> nn.Module:
    network = build_outline(OneLayer(build), 2)  # type: ignore[arg-type]
    return network.get_submodule("layer")


class Masked(nn.Conv2d):
    """A convolution whose constructor computes with its weight."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3)
        self.register_buffer("mask", torch.ones_like(self.weight))


def initialised() -> nn.Module:
    layer = nn.Conv2d(6, 4, 1)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(6, 4, 3),
    "without bias": lambda: nn.Conv2d(6, 4, (1, 3), 2, (0, 1), bias=False),
    "grouped": lambda: nn.Conv2d(6, 12, 3, padding="same", dilation=2, groups=6),
    "by names": lambda: nn.Conv2d(in_channels=6, out_channels=4, kernel_size=5, groups=2),
    "padded by reflection": lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
    "of lists": lambda: nn.Conv2d(6, 4, [1, 3], padding=[0, 1]),  # type: ignore[arg-type]
    "transposed": lambda: nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, 2),
    "transposed by names": lambda: nn.ConvTranspose2d(6, 4, 2, stride=2, bias=False, dilation=3),
    "norm": lambda: nn.BatchNorm2d(6, 1e-3, 0.01),
    "norm without weights": lambda: nn.BatchNorm2d(6, affine=False),
    "norm without statistics": lambda: nn.BatchNorm2d(6, track_running_stats=False),
    "subclass": Masked,
    "linear": lambda: nn.Linear(6, 4),
    "initialised": initialised,
}


@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_layers_have_the_options_and_shapes_that_pytorch_gives_them(
    build: Callable[[], nn.Module],
) -> None:
    with torch.device("meta"):
        expected = build()
    for _ in range(2):
        found = outline(build)
        assert type(found) is type(expected)
        assert options_of(found) == options_of(expected)
        assert vars(found).keys() == vars(expected).keys()
        state, expected_state = found.state_dict(), expected.state_dict()
        assert {n: (t.shape, t.dtype, t.is_meta) for n, t in state.items()} == {
            n: (t.shape, t.dtype, True) for n, t in expected_state.items()
        }


def test_layers_of_an_outline_have_attributes_of_their_own() -> None:
    def build() -> nn.Module:
        layers = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3))
        layers[0].dilation = (2, 2)
        layers[0].bias = None
        layers[0].add_module("inner", nn.ReLU())
        return layers

    first, second = outline(build).children()
    assert (first.dilation, second.dilation) == ((2, 2), (1, 1))
    assert first.bias is None
    assert second.bias is not None
    assert not list(second.children())


def test_other_threads_and_modules_that_are_imported_meanwhile_see_no_change() -> None:
    kept: list[Callable[..., Tensor]] = []

    def build() -> nn.Module:
        kept.append(nn.init.ones_)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(nn.Conv2d, 3, 4, 3).result()

    layer = outline(build)
    assert layer.weight.device.type == "cpu"
    assert layer.weight.std() > 0
    assert kept[0](torch.zeros(2)).tolist() == [1, 1]


def test_networks_are_built_with_values_afterwards() -> None:
    def fail() -> nn.Module:
        raise ValueError("no such layer")

    build_outline(UNetConfig(width=2), 2)
    with pytest.raises(ValueError, match="no such layer"):
        outline(fail)
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        states.append(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict())
    assert states[0]["0.weight"].std() > 0
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    weight: Tensor = nn.init.ones_(torch.zeros(2))
    assert weight.tolist() == [1, 1]
