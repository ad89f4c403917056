"""Additions of feature maps: found in any network, on one grid, exact on integers."""

import copy
import json

import pytest
import torch
from calibration_networks import random_images, unequal_network
from foreign_networks import traced_student
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models.model_file import ModelSpec, deserialize, parse_spec, serialize
from trainables.quantization.additions import named_additions
from trainables.quantization.bits import FULL_PRECISION, LayerBits
from trainables.quantization.convert import ConvertedAddition, convert
from trainables.quantization.graph import find_additions, trace
from trainables.quantization.layers import QuantizedAddition, QuantizedLayer
from trainables.quantization.prepare import calibrate, find_layer_roles, layer_bits, prepare
from trainables.quantization.quantizers.configs import Lsq
from trainables.quantization.quantizers.lsq import StepQuantizer

BITS = Lsq(weight_bits=8, activation_bits=4)


class Layers(nn.Module):
    """Three convolutions of 4 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 4, 1)
        self.bias = nn.Parameter(torch.ones(1, 4, 1, 1))


class InPlace(Layers):
    """A residual block as torchvision writes that of ResNet."""

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.stem(images))
        y = self.body(x)
        y += x
        result: Tensor = self.head(F.relu(y))
        return result


class Chain(Layers):
    """Two residual blocks, the second of which reads the sum of the first."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = x + self.body(F.relu(x))
        x = torch.add(x, F.max_pool2d(x, 3, 1, 1))
        result: Tensor = self.head(x)
        return result


class NoFeatures(Layers):
    """Adds sizes, numbers, a parameter, an image, logits, and twice what is added."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images + images) + 1 + self.bias
        x = F.interpolate(x, size=(x.shape[2] + x.shape[3], 8))
        x = torch.add(x, self.body(x), alpha=2)
        result: Tensor = self.head(x) + self.head(x)
        return result


class ChangedForAnother(Layers):
    """What is added in place is read by another operation."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        y = self.body(x)
        z = y.detach()
        y.add_(x)
        result: Tensor = self.head(y) + z
        return result


class Dropped(Chain):
    """It also drops values, by a function, while it is trained."""

    def forward(self, images: Tensor) -> Tensor:
        return F.dropout(super().forward(images), 0.5, training=self.training)


def prepared(model: nn.Module, quantizer: Lsq = BITS) -> nn.Module:
    torch.manual_seed(0)
    calibrate(prepare(model, quantizer), random_images())
    return model.eval()


def additions_of(model: nn.Module) -> list[QuantizedAddition]:
    return [module for module in model.modules() if isinstance(module, QuantizedAddition)]


@pytest.mark.parametrize(
    ("kind", "count"), [(InPlace, 1), (Chain, 2), (NoFeatures, 0), (ChangedForAnother, 0)]
)
def test_additions_of_feature_maps_are_found(kind: type[nn.Module], count: int) -> None:
    model = kind()
    assert len(find_additions(model, trace(model))) == count
    assert len(additions_of(prepared(model))) == count


def test_a_network_without_additions_keeps_its_class() -> None:
    assert type(prepared(NoFeatures())) is NoFeatures


@pytest.mark.parametrize("kind", [InPlace, Chain])
def test_layers_keep_their_names_and_a_network_its_kind(kind: type[nn.Module]) -> None:
    plain = prepare(kind(), BITS, with_additions=False).state_dict()
    model = prepared(kind())
    assert isinstance(model, kind)
    assert type(model).__name__ == kind.__name__
    names = model.state_dict().keys()
    assert names >= plain.keys()
    assert {name.split(".")[0] for name in names - plain.keys()} == {"quantized_additions"}
    other = prepare(kind(), BITS)
    other.load_state_dict(model.state_dict())
    images = random_images()
    assert torch.equal(other.eval()(images), model(images))
    assert torch.equal(copy.deepcopy(model)(images), model(images))


def test_what_is_only_done_in_training_is_left_out() -> None:
    model = prepared(Dropped()).train()
    images = random_images()
    assert torch.equal(model(images), model(images))
    assert all(module.training for module in model.modules())


def test_one_grid_serves_operands_and_the_readers_of_the_sum() -> None:
    model = prepared(Chain())
    first, second = additions_of(model)
    head, body = model.get_submodule("head"), model.get_submodule("body")
    assert isinstance(head, QuantizedLayer)
    assert isinstance(body, QuantizedLayer)
    assert first.input_quantizer is second.input_quantizer is head.input_quantizer
    assert body.input_quantizer is not head.input_quantizer  # a ReLU lies between


def test_a_sum_before_a_relu_needs_no_grid() -> None:
    model = prepared(InPlace())
    (addition,) = additions_of(model)
    head, body = model.get_submodule("head"), model.get_submodule("body")
    assert isinstance(head, QuantizedLayer)
    assert isinstance(body, QuantizedLayer)
    assert addition.input_quantizer is body.input_quantizer  # both read the block's input
    assert addition.input_quantizer is not head.input_quantizer


@given(
    st.integers(2, 8),
    st.lists(st.floats(-4, 4, width=32), min_size=8, max_size=8),
    st.floats(0.0625, 1, width=32),
)
def test_a_sum_is_that_of_the_integers_clipped(bits: int, values: list[float], step: float) -> None:
    """Against addition of codes one by one."""
    quantizer = StepQuantizer(bits, (1,))
    quantizer.zero_point = 2 ** (bits - 1) // 2
    with torch.no_grad():
        quantizer.log_step.copy_(torch.tensor([step]).log())
    first, second = torch.tensor(values).view(2, 4)
    found = quantizer.codes(QuantizedAddition(quantizer)(first, second))
    for a, b, code in zip(quantizer.codes(first), quantizer.codes(second), found, strict=True):
        assert int(code) == min(max(int(a) + int(b), quantizer.low), quantizer.high)


def test_what_is_added_has_eight_bits_unless_it_is_off() -> None:
    def bits_of(activation_bits: int, **layers: LayerBits) -> dict[str, int]:
        quantizer = Lsq(activation_bits=activation_bits, layers=layers)
        found = layer_bits(find_layer_roles(Chain()), quantizer)
        return {name: bits.activation_bits for name, bits in found.items()}

    names = ("head", "quantized_additions.0", "quantized_additions.1")
    assert {bits_of(3)[name] for name in names} == {8}
    assert bits_of(3)["body"] == 3
    assert {bits_of(FULL_PRECISION)[name] for name in names} == {FULL_PRECISION}
    five = LayerBits(weight_bits=5, activation_bits=5)
    assert bits_of(FULL_PRECISION, head=five)["quantized_additions.0"] == 8
    off = LayerBits(weight_bits=5, activation_bits=FULL_PRECISION)
    model = prepared(Chain(), Lsq(layers={"head": off}))
    assert not additions_of(model)
    assert type(model) is Chain


def test_the_grid_is_trained() -> None:
    model = prepared(Chain()).train()
    model(random_images()).square().mean().backward()
    for addition in additions_of(model):
        for parameter in addition.parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0


def test_a_converted_network_adds_the_same() -> None:
    model, images = prepared(unequal_network(nn.ReLU6, with_norm=True)), random_images()
    converted = convert(model)
    kinds = {type(module) for module in converted.modules()}
    assert ConvertedAddition in kinds
    assert QuantizedAddition not in kinds
    with torch.no_grad():
        error = (converted(images) - model(images)).abs()
    assert error.median() <= 1e-5


def test_additions_of_an_earlier_version_stay_on_floats() -> None:
    """Their files do not mention additions, as those of networks without any."""
    student = traced_student()
    torch.manual_seed(0)
    model = prepare(student.build(5), BITS, with_additions=False)
    calibrate(model, torch.randn(2, 3, 32, 32))
    card = ModelSpec(model=student, num_classes=5, quantizer=BITS)
    content = serialize(model, card)
    assert b"additions" not in content
    loaded, images = deserialize(content), torch.randn(2, 3, 32, 32)
    assert not any(isinstance(module, ConvertedAddition) for module in loaded.modules())
    assert torch.equal(loaded(images), convert(model)(images))


def test_a_model_file_says_that_additions_are_quantized() -> None:
    student = traced_student()
    model = prepare(student.build(5), BITS)
    calibrate(model, torch.randn(2, 3, 32, 32))
    card = ModelSpec(model=student, num_classes=5, quantizer=BITS, with_additions=True)
    content = serialize(model, card)
    assert parse_spec(content[8 : 8 + int.from_bytes(content[:8], "little")]) == card
    assert json.loads(card.model_dump_json())["with_additions"] is True
    loaded, images = deserialize(content), torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), convert(model)(images))


def test_names_follow_the_order_of_execution() -> None:
    model = Chain()
    graph = trace(model)
    assert [node.name for node in named_additions(model, graph)] == ["add", "add_1"]
    assert list(named_additions(model, graph).values()) == [
        "quantized_additions.0",
        "quantized_additions.1",
    ]
