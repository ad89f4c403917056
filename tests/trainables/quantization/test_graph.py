"""Folding and the first and last layers, on the graphs of networks of all shapes."""

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models.configs import (
    TORCHVISION_NAMES,
    TorchvisionConfig,
    TorchvisionName,
    UNetConfig,
)
from trainables.quantization.convert import ConvertedLayer, convert
from trainables.quantization.graph import (
    find_first_and_last,
    find_foldable,
    find_input_groups,
    trace,
)
from trainables.quantization.layers import QuantizedLayer
from trainables.quantization.prepare import calibrate, prepare
from trainables.quantization.quantizers.configs import Lsq

TORCHVISION = [
    pytest.param(name, marks=[pytest.mark.slow] if name.endswith("resnet101") else [])
    for name in TORCHVISION_NAMES
]


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """The network with weights and statistics of all signs and sizes, in evaluation mode."""
    torch.manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                norm.weight.data *= torch.randn_like(norm.weight).sign()
                nn.init.normal_(norm.bias, std=0.1)
    return model.eval()


def num_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@torch.no_grad()
def assert_same_logits(model: nn.Module, images: Tensor) -> nn.Module:
    """Checks that conversion leaves the logits and the classes as they are."""
    converted = convert(model)
    expected, got = model(images), converted(images)
    tolerance = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)
    if expected.ndim == 4:
        two = expected.topk(2, dim=1).values
        is_clear = two[:, 0] - two[:, 1] > 2 * tolerance
        assert torch.equal(expected.argmax(1)[is_clear], got.argmax(1)[is_clear])
    return converted


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_norm_of_torchvision_networks_is_folded(name: TorchvisionName) -> None:
    model = randomized(TorchvisionConfig(name=name).build(5))
    assert num_norms(model) > 30
    assert num_norms(assert_same_logits(model, torch.randn(1, 3, 64, 64))) == 0


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
def test_every_norm_of_a_unet_is_folded(upsampling: str) -> None:
    student = UNetConfig.model_validate({"width": 3, "depth": 3, "upsampling": upsampling})
    model = randomized(student.build(5))
    assert num_norms(assert_same_logits(model, torch.randn(2, 3, 37, 41))) == 0


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        (
            "lraspp_mobilenet_v3_large",
            "backbone.0.0",
            ["classifier.low_classifier", "classifier.high_classifier"],
        ),
        ("deeplabv3_mobilenet_v3_large", "backbone.0.0", ["classifier.4"]),
        ("deeplabv3_resnet50", "backbone.conv1", ["classifier.4"]),
        ("fcn_resnet50", "backbone.conv1", ["classifier.4"]),
    ],
)
def test_first_and_last_layers_of_torchvision_networks(
    name: TorchvisionName, first: str, last: list[str]
) -> None:
    with torch.device("meta"):
        model = TorchvisionConfig(name=name).build(5)
    assert find_first_and_last(model) == {f"network.{layer}" for layer in (first, *last)}


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
def test_first_and_last_layers_of_a_unet(upsampling: str) -> None:
    student = UNetConfig.model_validate({"width": 2, "depth": 2, "upsampling": upsampling})
    model = student.build(5)
    assert find_first_and_last(model) == {"encoder.0.0", "classifier"}
    assert find_first_and_last(prepare(model, Lsq())) == {"encoder.0.0", "classifier"}


def test_a_quantized_torchvision_network_is_protected_folded_and_predicts_the_same() -> None:
    model = randomized(TorchvisionConfig(name="lraspp_mobilenet_v3_large").build(5))
    prepare(model, Lsq(weight_bits=4, activation_bits=8))
    calibrate(model, torch.randn(1, 3, 64, 64))
    bits = {
        name: module.weight_quantizer.bits
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLayer) and module.weight_quantizer
    }
    ends = ("backbone.0.0", "classifier.low_classifier", "classifier.high_classifier")
    assert {name for name in bits if bits[name] == 8} == {f"network.{name}" for name in ends}
    assert set(bits.values()) == {4, 8}
    with torch.no_grad():
        images = torch.randn(1, 3, 64, 64)
        converted = convert(model)
        expected, got = model(images), converted(images)
    assert num_norms(converted) == 0
    assert sum(isinstance(module, ConvertedLayer) for module in converted.modules()) == len(bits)
    assert (expected - got).abs().median() <= 1e-3 * expected.abs().max()


class Net(nn.Module):
    """Convolutions `a`, `b`, `c` and norms `p`, `q` of 4 channels, for toy networks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.p, self.q = nn.BatchNorm2d(4), nn.BatchNorm2d(4)


class TwoStemsAndHeads(Net):
    """`c` between two stems and two heads, with a skip past everything."""

    def __init__(self) -> None:
        super().__init__()
        self.head1, self.head2 = nn.Conv2d(4, 4, 1), nn.ConvTranspose2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[-2]
        inner = self.c(F.relu(self.a(F.pad(x, (0, 1)))[..., :-1] + self.b(x * 2 + 1)))
        inner = F.interpolate(inner, (height, x.size(3)))
        result: Tensor = torch.sigmoid(self.head1(inner)) * self.head2(inner.clone())
        return result


class RegisteredBackwards(Net):
    """Runs c, b, a."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.a(self.q(self.b(self.p(self.c(x)))))
        return result


class SizeOfTheImage(Net):
    """The middle layer reads the image's size, but nothing of its values."""

    def forward(self, x: Tensor) -> Tensor:
        inner = F.interpolate(F.max_pool2d(self.a(x), 2), x.shape[-2:])
        middle = self.b(inner.expand(x.size(0), -1, -1, -1))
        return F.interpolate(self.c(middle), size=middle.shape[-2:])


class Shortcut(Net):
    """Images go past the first layer, and the middle one past the last."""

    def forward(self, x: Tensor) -> Tensor:
        middle = self.b(torch.cat([self.a(x)[:, :2], x[:, :2]], 1))
        result: Tensor = middle + self.c(middle).relu()
        return result


@pytest.mark.parametrize(
    ("network", "ends"),
    [
        (TwoStemsAndHeads, {"a", "b", "head1", "head2"}),
        (RegisteredBackwards, {"a", "c"}),
        (SizeOfTheImage, {"a", "c"}),
        (Shortcut, {"a", "b", "c"}),
    ],
)
def test_first_and_last_layers_are_those_of_the_graph(
    network: type[nn.Module], ends: set[str]
) -> None:
    assert find_first_and_last(network()) == ends


class AlsoReadElsewhere(Net):
    def forward(self, x: Tensor) -> Tensor:
        before = self.a(x)
        result: Tensor = self.p(before) + before.relu()
        return result


class AlsoTheOutput(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = self.a(x)
        return self.p(before), before


class SharedConvolution(Net):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.p(self.a(x)) + self.q(self.a(x.relu()))
        return result


class SharedConvolutionOnceWithout(Net):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.p(self.a(x)) + self.a(x.relu())
        return result


class SharedNorm(Net):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.p(self.a(x)) + self.p(self.b(x))
        return result


class NormTwice(Net):
    def forward(self, x: Tensor) -> Tensor:
        before = self.a(x)
        result: Tensor = self.p(before) + self.p(before)
        return result


class NormBehindActivation(Net):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.p(self.a(x).relu())
        return result


class StatisticsOfTheBatch(Net):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.p(self.a(x))
        return result


class NormWithActivation(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class SubclassedNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.p = NormWithActivation(4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.p(self.a(x))
        return result


class LinearOnWidth(Net):
    """A linear layer, whose outputs lie along the width and not the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.p(self.a(x))
        return result


NOT_FOLDED = [
    AlsoReadElsewhere,
    AlsoTheOutput,
    SharedConvolution,
    SharedConvolutionOnceWithout,
    SharedNorm,
    NormTwice,
    NormBehindActivation,
    StatisticsOfTheBatch,
    SubclassedNorm,
    LinearOnWidth,
]


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("network", NOT_FOLDED)
def test_what_is_not_one_convolution_before_one_norm_is_not_folded(
    network: type[nn.Module], quantized: bool
) -> None:
    model = network()
    images = torch.randn(2, 4, 4, 4)
    if network is not StatisticsOfTheBatch:
        randomized(model)
    if quantized:
        prepare(model, Lsq(weight_bits=8, activation_bits=8))
        calibrate(model, images)
    model.eval()
    assert find_foldable(model) == []
    with torch.no_grad():
        torch.testing.assert_close(convert(model)(images), model(images))


class PairUsedTwice(Net):
    """A convolution and its norm, called one after the other both times."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.p(self.a(self.p(self.a(x)).relu()))
        return result


class TwoNames(Net):
    """A convolution and its norm that are registered twice and called by either name."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Sequential(self.a, self.p)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.again(self.p(self.a(x)).relu())
        return result


class PlainNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.BatchNorm2d(4, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.p(self.a(x))
        return result


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("network", [PairUsedTwice, TwoNames, PlainNorm])
def test_a_pair_is_folded_wherever_it_is_used(network: type[nn.Module], quantized: bool) -> None:
    model, images = randomized(network()), torch.randn(2, 4, 5, 5)
    if quantized:
        prepare(model, Lsq(weight_bits=8, activation_bits=32))
        calibrate(model, images)
    assert find_foldable(model) == [("a", "p")]
    converted = assert_same_logits(model.eval(), images)
    assert type(converted.get_submodule("p")) is nn.Identity
    kind = ConvertedLayer if quantized else nn.Conv2d
    for module in (converted.get_submodule("a"), getattr(converted, "again", [None])[0]):
        assert module is None or type(module) is kind


class Chain(nn.Module):
    """Branches of a convolution, a norm or none, and an activation or none, which are summed."""

    def __init__(self, branches: Sequence[tuple[nn.Module, bool, bool]], channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(  # registered before what they follow
            nn.BatchNorm2d(channels) if norm else nn.Identity() for _, norm, _ in branches
        )
        self.layers = nn.ModuleList(layer for layer, _, _ in branches)
        self.activates = [activates for _, _, activates in branches]

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm, activates in zip(self.layers, self.norms, self.activates, strict=True):
            change = norm(layer(x))
            x = x + (F.relu(change) if activates else change)
        return x


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, bool, bool]:
    """A layer that keeps 4 channels and the size; grouped, depthwise and transposed ones too."""
    kernel, bias = draw(st.sampled_from([1, 3])), draw(st.booleans())
    groups = draw(st.sampled_from([1, 2, 4]))
    kind = draw(st.sampled_from([nn.Conv2d, nn.ConvTranspose2d]))
    layer = kind(4, 4, kernel, padding=kernel // 2, groups=groups, bias=bias)
    return layer, draw(st.booleans()), draw(st.booleans())


@settings(max_examples=40, deadline=None)
@given(st.lists(convolutions(), min_size=1, max_size=4), st.integers(0, 99), st.booleans())
def test_folded_equals_unfolded(
    branches: list[tuple[nn.Module, bool, bool]], seed: int, quantized: bool
) -> None:
    model = randomized(Chain(branches, 4), seed)
    grouped = [isinstance(part, nn.ConvTranspose2d) and part.groups > 1 for part, _, _ in branches]
    if quantized and not any(grouped):
        prepare(model, Lsq(weight_bits=4, activation_bits=32))
    converted = assert_same_logits(model.eval(), torch.randn(2, 4, 5, 5))
    left = [is_grouped for is_grouped, (_, norm, _) in zip(grouped, branches, strict=True) if norm]
    assert num_norms(converted) == sum(left)


class DependsOnValues(Net):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.a(x)
        if result.sum() > 0:
            return -result
        return result


@pytest.mark.parametrize("change", [convert, lambda model: prepare(model, Lsq())])
def test_a_network_that_cannot_be_traced_is_named_with_what_it_does(change: object) -> None:
    assert callable(change)
    with pytest.raises(
        ValueError,
        match=r"must be traceable by torch\.fx, but DependsOnValues is not: "
        r"'if result\.sum\(\) > 0:' in forward \(test_graph\.py, line \d+\): .*control flow",
    ) as caught:
        change(DependsOnValues())
    assert "\n" not in str(caught.value)


def test_layers_are_single_operations_before_and_after_quantization_and_conversion() -> None:
    model = UNetConfig(width=2, depth=1).build(5)
    prepared = prepare(copy.deepcopy(model), Lsq())

    def calls(graph: torch.fx.Graph) -> list[object]:
        return [node.target for node in graph.nodes if node.op == "call_module"]

    assert calls(trace(model)) == calls(trace(prepared))
    assert calls(trace(convert(prepared), leaves=(ConvertedLayer,))) == calls(trace(model))


def test_tracing_leaves_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    model = UNetConfig(width=2, depth=1).build(5)
    torch.manual_seed(0)
    convert(prepare(model, Lsq()))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_skip_connections_of_a_unet_are_read_by_encoder_and_decoder(
    depth: int, upsampling: str
) -> None:
    student = UNetConfig.model_validate({"width": 2, "depth": depth, "upsampling": upsampling})
    assert find_input_groups(student.build(5)) == [
        (f"encoder.{stage + 1}.0", f"decoder.{depth - 1 - stage}.0") for stage in range(depth)
    ]


class ReadersOfOneTensor(nn.Module):
    """Two branches read what the stem gives; a third reads their sum, a fourth an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.activated, self.summed = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.stem = nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        x = self.stem(F.pad(images, (0, -width % 2, 0, -height % 2)))
        total = self.left(x) + self.right(F.pad(x, (0, -width % 2, 0, -height % 2)))
        return self.summed(total) + self.activated(F.relu(x))


class JoinsByConcatenation(ReadersOfOneTensor):
    """Readers of two tensors and of both joined use one grid, a layer that is called twice too."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        y = self.left(x)
        joined = torch.cat([x, y], 1)[:, :4]
        return self.right(F.max_pool2d(joined, 2)) + self.summed(x) + self.summed(F.relu(y))


def test_layers_share_a_grid_where_they_read_one_tensor() -> None:
    assert find_input_groups(ReadersOfOneTensor()) == [("left", "right")]
    assert find_input_groups(JoinsByConcatenation()) == [("summed", "left", "right")]


def test_groups_are_found_in_prepared_networks_too() -> None:
    network = TorchvisionConfig(name="lraspp_mobilenet_v3_large").build(5)
    groups = find_input_groups(network)
    assert ("network.classifier.cbr.0", "network.classifier.scale.1") not in groups  # it is pooled
    assert find_input_groups(prepare(network, Lsq(weight_bits=4, activation_bits=4))) == groups
