"""Bytes of activations, counted by hand for small networks."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.quantization.activation_memory import find_stored_tensors, peak_bytes
from trainables.quantization.additions import named_additions
from trainables.quantization.bits import LayerBits
from trainables.quantization.graph import trace
from trainables.quantization.prepare import find_layer_roles, layer_bits
from trainables.quantization.quantizers.configs import Lsq
from trainables.quantization.shapes import Shapes, name_operations


def conv(before: int, after: int, kernel: int = 3, **options: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, padding=kernel // 2, **options)


def peak(
    model: nn.Module, bits: dict[str, int], input_groups: tuple[tuple[str, ...], ...] = ()
) -> int:
    """For one image of 8 x 8 pixels; `bits` are those of the inputs of layers."""
    model = model.to("meta").eval()
    modules = dict(model.named_modules())
    graph = trace(model)
    operations, additions = name_operations(modules, graph), named_additions(model, graph)
    num_values = Shapes(modules, operations, (1, 3, 8, 8)).num_values
    layers = {n: LayerBits(weight_bits=8, activation_bits=b) for n, b in bits.items()}
    tensors = find_stored_tensors(modules, operations, num_values, input_groups, additions)
    return peak_bytes(tensors, layers)


class Chain(nn.Module):
    """Two layers with what is computed in place between them."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.first, self.norm, self.relu = conv(3, 16), nn.BatchNorm2d(16), nn.ReLU(inplace)
        self.last = conv(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.relu(self.norm(self.first(images))))[..., :8, :8]


@pytest.mark.parametrize("inplace", [True, False])
def test_norms_activations_and_views_take_no_memory(inplace: bool) -> None:
    image, hidden, logits = 3 * 64, 16 * 64, 2 * 64
    assert peak(Chain(inplace), {}) == 4 * (image + hidden)
    assert peak(Chain(inplace), {"first": 8, "last": 8}) == hidden + 4 * logits
    assert peak(Chain(inplace), {"first": 8, "last": 4}) == hidden // 2 + 4 * logits
    assert peak(Chain(inplace), {"first": 8, "last": 32}) == 4 * (hidden + logits)


class ReadTwice(nn.Module):
    """An activation that reads through dropout what a layer reads as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.act = conv(3, 16), nn.Dropout(), nn.Hardswish()
        self.one, self.two = conv(16, 2), conv(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images)
        return torch.cat([self.one(self.act(self.drop(hidden))), self.two(hidden)], 1)


def test_what_is_read_elsewhere_is_not_overwritten_through_a_view() -> None:
    assert peak(ReadTwice(), {}) == 4 * (16 + 16 + 2) * 64


class Skip(nn.Module):
    """A tensor that is concatenated after it was pooled and computed on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.deep, self.up = conv(3, 8), conv(8, 8), nn.ConvTranspose2d(8, 8, 2, 2)
        self.join = conv(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        skip = F.relu(self.first(images))
        up = F.relu(self.up(F.relu(self.deep(F.max_pool2d(skip, 2)))))
        return self.join(torch.cat([up, skip], dim=1))


def test_layers_that_share_a_grid_read_one_tensor() -> None:
    bits = {"first": 8, "deep": 4, "up": 4, "join": 4}
    channel, logits = 64, 2 * 64 * 4
    shared = 16 * channel // 2 + max(16 * channel // 2, logits)
    assert peak(Skip(), bits, (("deep", "join"),)) == shared
    # The pooled tensor is on the grid of "deep" then, and the skip is kept on that of "join"
    apart = 3 * channel + 8 * channel // 2 * 2
    assert peak(Skip(), {**bits, "join": 2}) == max(apart, 16 * channel // 4 + logits)


class Residual(nn.Module):
    """An addition, which reads floats."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(3, 8), conv(8, 8), conv(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images)
        return self.last(hidden + self.second(hidden))


def test_a_tensor_is_stored_in_each_form_in_which_it_is_read() -> None:
    hidden = 8 * 64
    bits = {"first": 8, "second": 4, "last": 8}
    assert peak(Residual(), bits) == 4 * hidden + 4 * hidden + hidden
    assert peak(Residual(), {"first": 8, "second": 8, "last": 2}) == 4 * hidden * 2 + hidden


class InvertedResidual(nn.Module):
    """A block of MobileNetV2 between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.expand, self.norm = conv(3, 32), conv(32, 128, 1), nn.BatchNorm2d(128)
        self.relu, self.project, self.last = nn.ReLU6(), conv(128, 32, 1), conv(32, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        inputs = self.first(images)
        return self.last(inputs + self.project(self.relu(self.norm(self.expand(inputs)))))


@pytest.mark.parametrize("project_bits", [4, 5, 32])
def test_an_inverted_residual_needs_its_wide_tensor_and_both_operands(project_bits: int) -> None:
    layers = {"project": LayerBits(weight_bits=4, activation_bits=project_bits)}
    quantizer = Lsq(weight_bits=4, activation_bits=4, layers=layers)
    model = InvertedResidual().to("meta").eval()
    roles = find_layer_roles(model)
    bits = {name: each.activation_bits for name, each in layer_bits(roles, quantizer).items()}
    operands, wide = 2 * 32 * 64, 128 * 64 * project_bits // 8
    assert peak(model, bits, roles.input_groups) == operands + wide
    assert operands + wide == {4: 8_192, 5: 9_216, 32: 36_864}[project_bits]


class Upsampled(nn.Module):
    """A small map that is resized between two layers."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.first, self.last, self.mode = conv(3, 64, stride=2), conv(64, 2), mode

    def forward(self, images: Tensor) -> Tensor:
        return self.last(F.interpolate(self.first(images), scale_factor=2, mode=self.mode))


def test_resizing_reads_floats_unless_it_takes_the_nearest_value() -> None:
    small, large = 64 * 16, 64 * 64
    bits = {"first": 8, "last": 8}
    assert peak(Upsampled("nearest"), bits) == small + large
    assert peak(Upsampled("bilinear"), bits) == 4 * small + large
