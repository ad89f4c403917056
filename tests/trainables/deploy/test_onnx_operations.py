"""Every operation of the ONNX export: the logits of small networks of few channels agree."""

import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import onnx
import pytest
import torch
from onnx_operators import count_float_layers, operators_of_onnxruntime
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.deploy.onnx_export import find_float_operations, to_onnx
from trainables.deploy.onnx_graph import OnnxForm
from trainables.deploy.runtime import CPU, open_session
from trainables.models.base import Network, Outputs
from trainables.models.configs import TorchvisionConfig
from trainables.quantization.bits import LayerBits
from trainables.quantization.convert import ConvertedLayer, convert
from trainables.quantization.prepare import calibrate, prepare
from trainables.quantization.quantizers.configs import Lsq
from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer

FORMS: tuple[OnnxForm, ...] = ("onnx", "onnx-int8")
SIZES = ((2, 3, 32, 48), (1, 3, 33, 41))
CLASSES = 5


class Net(nn.Module):
    """An operation between the second and the third of three convolutions."""

    def __init__(self, operation: Callable[[Tensor], Tensor], channels: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4))
        self.middle = nn.Conv2d(4, 4, 3, padding="same", groups=4, bias=False)
        self.operation = operation
        self.head = nn.Conv2d(channels, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.operation(self.middle(F.relu6(self.stem(x)))))
        return result


class SqueezeExcite(nn.Module):
    """Squeeze-and-excite, by linear layers as in the paper or by 1x1 convolutions."""

    def __init__(self, linear: bool) -> None:
        super().__init__()
        kind = nn.Linear if linear else lambda a, b: nn.Conv2d(a, b, 1)
        self.linear, self.down, self.up = linear, kind(4, 2), kind(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.size(0), x.size(1)
        pooled = x.mean((2, 3), keepdim=not self.linear)
        scale = F.hardsigmoid(self.up(F.relu(self.down(pooled))))
        return x * scale.view(batch, channels, 1, 1) if self.linear else scale * x


class SqueezeExciteByUnsqueezing(SqueezeExcite):
    def __init__(self) -> None:
        super().__init__(linear=True)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.up(self.down(torch.flatten(self.pool(x), 1))))
        return x * scale[:, :, None, None].expand_as(x)


class Affine(nn.Module):
    """A normalisation with constants, which are no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", torch.rand(4, 1, 1))
        self.shift = nn.Parameter(torch.rand(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale - 0.25 * x + 1


class Normalised(nn.Module):
    """A BatchNorm that cannot be folded, for it reads a sum."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(x + F.max_pool2d(x, 3, 1, 1))
        return result


def residual(x: Tensor) -> Tensor:
    y = torch.add(x, F.relu(x))
    y += x
    return y.relu()


def stochastic_depth(x: Tensor) -> Tensor:
    from torchvision.ops import stochastic_depth

    result: Tensor = stochastic_depth(F.dropout(x, 0.5, training=False), 0.5, "row", False)
    return result


def image_pooling(x: Tensor) -> Tensor:
    """As in DeepLabV3's head."""
    pooled = F.adaptive_avg_pool2d(x, 1)
    pooled = Outputs(pooled, pooled).resize_logits(x.shape[-2:]).logits
    return torch.cat([x, pooled], 1)


def ceiled_half(x: Tensor) -> Tensor:
    """Sizes with each operator, and a rounding of negative numbers."""
    _, _, height, width = x.size()
    size = (-(-height // 2) + 3 - 1, 2 * width % 17 + 1)
    return F.interpolate(x, size=size)


def same_padding(x: Tensor) -> Tensor:
    """The padding of TensorFlow, by sizes, at all four sides."""
    height, width = x.shape[2], x.shape[3]
    down, right = 4 - height % 4, 4 - width % 4
    x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
    return F.pad(x, [-1, 2, 1, 0])


def padded_and_cropped(x: Tensor) -> Tensor:
    """As around a network for images of odd sizes."""
    height, width = x.shape[2:]
    x = F.interpolate(F.pad(x, (0, 1, 0, 1)), (height + 1, width + 1), mode="bilinear")
    return x[:, :, :height, :width]


def bordered(x: Tensor) -> Tensor:
    x = x[..., 1:-1, x.shape[2] // 4 :] + x[:, :, 2:, x.shape[2] // 4 :]
    return x[:, :, : x.size(2) - 1][..., :-3][:]


def pooled_by_halves(x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=1)
    return F.pixel_shuffle(torch.cat([left, right, right[:, :1], x[:, 1:]], 1), 2)


def expanded(x: Tensor) -> Tensor:
    mean = x.mean([-2, -1], keepdim=True).expand(-1, -1, x.shape[2], x.size(3))
    return x - mean.repeat(1, 1, 1, 1)


def upsampling(mode: str, **arguments: object) -> Callable[[Tensor], Tensor]:
    def operation(x: Tensor) -> Tensor:
        y = F.max_pool2d(x, 2)
        return F.interpolate(y, size=x.shape[-2:], mode=mode, **arguments)  # type: ignore[arg-type]

    return operation


class Clamped(nn.Module):
    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


OPERATIONS: Mapping[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "relu6": nn.ReLU6,
    "hardtanh": lambda: nn.Hardtanh(-0.5, 0.75),
    "clamp 0 6": lambda: Clamped(0, 6),
    "clamp from below": lambda: Clamped(-0.25, None),
    "clamp from above": lambda: Clamped(None, 0.5),
    "hardswish": nn.Hardswish,
    "functional hardswish": lambda: F.hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "leaky relu": lambda: nn.LeakyReLU(0.2),
    "offset, padded and pooled": lambda: nn.Sequential(
        nn.Hardswish(), nn.ZeroPad2d(1), nn.MaxPool2d(3, 2, 1)
    ),
    "residual": lambda: residual,
    "product": lambda: lambda x: torch.mul(x, x.sigmoid()),
    "squeeze-and-excite": lambda: SqueezeExcite(linear=False),
    "squeeze-and-excite, linear": lambda: SqueezeExcite(linear=True),
    "squeeze-and-excite, unsqueezed": SqueezeExciteByUnsqueezing,
    "affine": Affine,
    "batch norm of a sum": lambda: Normalised(nn.BatchNorm2d(4)),
    "batch norm without affine map": lambda: Normalised(nn.BatchNorm2d(4, affine=False)),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "stochastic depth": lambda: stochastic_depth,
    "image pooling": lambda: image_pooling,
    "average pooling": lambda: nn.AvgPool2d(3, stride=2, padding=1),
    "average pooling of what is inside": lambda: nn.AvgPool2d(
        3, 2, padding=1, count_include_pad=False
    ),
    "average pooling, function": lambda: lambda x: F.avg_pool2d(x, 2),
    "max pooling, rounded up": lambda: nn.MaxPool2d(3, stride=2, ceil_mode=True),
    "max pooling, dilated": lambda: nn.MaxPool2d(3, stride=1, dilation=2),
    "average pooling, rounded up": lambda: nn.AvgPool2d(2, 2, ceil_mode=True),
    "sizes": lambda: ceiled_half,
    "padding at all sides": lambda: same_padding,
    "padding module": lambda: nn.ZeroPad2d((1, 2, 0, 3)),
    "padded and cropped": lambda: padded_and_cropped,
    "without borders": lambda: bordered,
    "nearest": lambda: upsampling("nearest"),
    "nearest-exact": lambda: upsampling("nearest-exact"),
    "bilinear": lambda: upsampling("bilinear"),
    "bilinear, aligned": lambda: upsampling("bilinear", align_corners=True),
    "bicubic": lambda: upsampling("bicubic", align_corners=False),
    "upsample": lambda: nn.Upsample(scale_factor=2),
    "upsample to a size": lambda: nn.Upsample(size=(9, 14), mode="bilinear"),
    "upsample, aligned": lambda: nn.UpsamplingBilinear2d(scale_factor=2),
    "upsample by a fraction": lambda: nn.Upsample(scale_factor=(1.5, 2.5), mode="bilinear"),
    "chunks": lambda: pooled_by_halves,
    "expanded": lambda: expanded,
    "transposed 4/2/1": lambda: nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1),
    "transposed 3/2": lambda: nn.ConvTranspose2d(4, 4, 3, stride=2, output_padding=1),
    "transposed 2/2": lambda: nn.ConvTranspose2d(4, 4, 2, stride=2),
    "transposed, dilated": lambda: nn.ConvTranspose2d(4, 4, (3, 2), dilation=2, bias=False),
}
CHANNELS = {"image pooling": 8, "chunks": 2}


def build(name: str) -> nn.Module:
    """The network with an operation, with normalisation statistics other than 0 and 1."""
    torch.manual_seed(0)
    network = Net(OPERATIONS[name](), CHANNELS.get(name, 4)).train()
    with torch.no_grad():
        network(torch.randn(2, 3, 32, 48))
    return network.eval()


@cache
def quantized(name: str, bits: int) -> nn.Module:
    """The converted network, for all forms."""
    network, images = build(name), torch.randn(SIZES[0])
    calibrate(prepare(network, Lsq(weight_bits=bits, activation_bits=bits)), images)
    return convert(network)


def logits_of(content: bytes, images: Tensor) -> Tensor:
    session = open_session(content, CPU, 1)
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def export(network: nn.Module, form: OnnxForm) -> bytes:
    model = to_onnx(network, CLASSES, form, {})
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_float_network_gives_the_same_logits_at_any_size(name: str) -> None:
    network = convert(build(name))
    content = export(network, "onnx")
    for size in SIZES:
        images = torch.randn(size)
        with torch.no_grad():
            expected = network(images)
        torch.testing.assert_close(logits_of(content, images), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_network_gives_the_same_logits(name: str, form: OnnxForm, bits: int) -> None:
    network = quantized(name, bits)
    torch.manual_seed(1)
    content = export(network, form)
    for size in SIZES:
        images = torch.randn(size)
        with torch.no_grad():
            expected = network(images)
        error = (logits_of(content, images) - expected).abs() / expected.abs().max()
        # a value between two integers may be rounded to either
        assert error.median() <= 1e-4
        assert (error > 0.02).float().mean() <= 0.01


class WithBackbone(Network):
    """A network whose backbone gives feature maps, the deepest one last."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        return self.native_outputs(x).resize_logits(x.shape[-2:]).logits


class Fcn(WithBackbone):
    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__(backbone)
        self.classifier = nn.Sequential(
            nn.Conv2d(channels, 16, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, CLASSES, 1),
        )

    def native_outputs(self, images_B3HW: Tensor) -> Outputs:
        features = self.backbone(images_B3HW)["out"]
        return Outputs(self.classifier(features), features)


class UNetDecoder(WithBackbone):
    def __init__(self, backbone: nn.Module, channels: list[int]) -> None:
        super().__init__(backbone)
        *skips, deepest = channels
        before = [deepest, *[16] * (len(skips) - 1)]
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a + b, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
            for a, b in zip(before, reversed(skips), strict=True)
        )
        self.classifier = nn.Conv2d(16, CLASSES, 1)

    def native_outputs(self, images_B3HW: Tensor) -> Outputs:
        *skips, features = self.backbone(images_B3HW).values()
        x = features
        for block in self.decoder:
            skip = skips.pop()
            x = block(torch.cat([F.interpolate(x, size=skip.shape[-2:]), skip], 1))
        return Outputs(self.classifier(x), features)


def lraspp() -> nn.Module:
    return TorchvisionConfig(name="lraspp_mobilenet_v3_large").build(CLASSES)


def fcn_resnet18() -> nn.Module:
    from torchvision.models import resnet18
    from torchvision.models._utils import IntermediateLayerGetter

    backbone = IntermediateLayerGetter(resnet18(weights=None), {"layer4": "out"})
    return Fcn(backbone, 512)


def unet_mobilenet_v2() -> nn.Module:
    from torchvision.models import mobilenet_v2
    from torchvision.models._utils import IntermediateLayerGetter

    taps = {"1": "a", "3": "b", "6": "c", "13": "d", "17": "e"}
    backbone = IntermediateLayerGetter(mobilenet_v2(weights=None).features, taps)
    return UNetDecoder(backbone, [16, 24, 32, 96, 320])


NETWORKS = [
    lraspp,
    pytest.param(fcn_resnet18, marks=pytest.mark.slow),
    pytest.param(unet_mobilenet_v2, marks=pytest.mark.slow),
]


def trained_statistics(make: Callable[[], nn.Module]) -> nn.Module:
    """The network with the normalisation statistics of some random images."""
    torch.manual_seed(0)
    network = make().train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(4, 3, 64, 64))
    return network.eval()


@pytest.mark.parametrize("make", NETWORKS)
def test_networks_on_torchvision_backbones_agree(make: Callable[[], nn.Module]) -> None:
    network = convert(trained_statistics(make))
    content = export(network, "onnx")
    for size in ((2, 3, 64, 96), (1, 3, 65, 81)):
        images = torch.randn(size)
        with torch.no_grad():
            expected = network(images)
        scale = expected.abs().max()
        assert (logits_of(content, images) - expected).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("form", FORMS)
def test_quantized_networks_on_torchvision_backbones_agree(
    make: Callable[[], nn.Module], form: OnnxForm
) -> None:
    network, images = trained_statistics(make), torch.randn(2, 3, 64, 96)
    calibrate(prepare(network, Lsq(weight_bits=8, activation_bits=8)), images)
    network = convert(network)
    content = export(network, form)
    for size in ((2, 3, 64, 96), (1, 3, 65, 81)):
        images = torch.randn(size)
        with torch.no_grad():
            expected = network(images).argmax(1)
        changed = logits_of(content, images).argmax(1) != expected
        # random weights: a value that falls to the other side of a rounding changes later ones
        assert changed.float().mean() <= 0.05


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", [3, 8])
def test_relu6_clips_integers_as_it_clips_floats(form: OnnxForm, bits: int) -> None:
    network = build("relu6")
    prepare(network, Lsq(weight_bits=8, activation_bits=bits))
    calibrate(network, torch.randn(2, 3, 16, 16))
    for name in ("middle", "head"):  # 6 lies within their grids, between two points
        quantizer = network.get_submodule(name).input_quantizer
        assert isinstance(quantizer, FakeQuantizer)
        with torch.no_grad():
            next(quantizer.parameters()).fill_(math.log(1.7))
    network = convert(network)
    content = export(network, form)
    images = 40 * torch.randn(1, 3, 33, 41)
    with torch.no_grad():
        expected = network(images)
    error = (logits_of(content, images) - expected).abs() / expected.abs().max()
    assert (error > 0.01).float().mean() <= 0.005  # biases are rounded
    graph = onnx.load_from_string(content).graph
    clips = [node for node in graph.node if node.op_type == "Clip"]
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in graph.initializer}
    ends = [[constants[name] for name in node.input[1:]] for node in clips]
    assert [(low.dtype.name, int(low), int(high)) for low, high in ends] == 2 * [("uint8", 0, 4)]


class Bottleneck(nn.Module):
    """As in MobileNetV2: outputs of the first convolution are signed, those of the second not."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.wide(self.narrow(F.relu6(x))))


@pytest.mark.parametrize("bits", [4, 8])
def test_convolutions_of_a_bottleneck_are_computed_on_integers(bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Net(Bottleneck()).eval()
    calibrate(prepare(network, Lsq(weight_bits=4, activation_bits=bits)), torch.randn(SIZES[0]))
    optimized = operators_of_onnxruntime(export(convert(network), "onnx-int8"), tmp_path)
    assert (optimized["QLinearConv"], optimized["Conv"]) == (4, 1)  # the logits are no integers


@pytest.mark.parametrize("bits", [4, 7, 8])
def test_a_convolution_that_reads_a_grid_with_an_offset_is_computed_on_integers(
    bits: int, tmp_path: Path
) -> None:
    network, layers = build("hardswish"), {}
    for name in ("middle", "head"):
        layers[name] = LayerBits(weight_bits=4, activation_bits=bits)
    calibrate(prepare(network, Lsq(layers=layers)), torch.randn(SIZES[0]))
    network = convert(network)
    head = network.get_submodule("head")
    assert isinstance(head, ConvertedLayer)
    assert head.grid is not None
    assert 0 < head.grid.zero_point < 2 ** (bits - 1)
    content = export(network, "onnx-int8")
    graph = onnx.load_from_string(content).graph
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in graph.initializer}
    zeros = [constants[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert [zero.dtype.name for zero in zeros] == 3 * ["uint8"]
    assert int(zeros[-1]) == head.grid.zero_point << 8 - bits
    assert operators_of_onnxruntime(content, tmp_path)["QLinearConv"] == 1  # the stem


class Residuals(nn.Module):
    """A sum that a layer reads, and one behind which a ReLU lies."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(F.relu(x))
        x = self.second(x)
        return F.relu(x + self.third(F.relu(x)))


@pytest.mark.parametrize("bits", [4, 8])
def test_residual_additions_are_computed_on_integers(bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, images = Net(Residuals()).eval(), torch.randn(SIZES[0])
    calibrate(prepare(network, Lsq(weight_bits=8, activation_bits=bits)), images)
    network = convert(network)
    content = export(network, "onnx-int8")
    optimized = operators_of_onnxruntime(content, tmp_path)
    assert (optimized["QLinearAdd"], optimized["Add"]) == (2, 0)
    assert not any("addition" in name for name in find_float_operations(network))
    with torch.no_grad():
        expected = network(images)
    for form in FORMS:
        error = (logits_of(export(network, form), images) - expected).abs() / expected.abs().max()
        assert error.median() <= 1e-4  # but for values between two integers
        assert (error > 0.02).float().mean() <= 0.01


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("relu6", []),
        ("hardswish", ["operation"]),
        ("residual", []),
        ("squeeze-and-excite, linear", ["mean", "hardsigmoid", "mul"]),
        ("upsample", []),
        ("padding module", []),
        ("bilinear", ["interpolate"]),
        ("transposed 4/2/1", []),
        ("transposed 2/2", []),
    ],
)
def test_what_stays_on_floats_is_what_onnxruntime_computes_on_floats(
    name: str, others: list[str], tmp_path: Path
) -> None:
    network = build(name)
    calibrate(prepare(network, Lsq(weight_bits=4, activation_bits=4)), torch.randn(SIZES[0]))
    network = convert(network)
    found = find_float_operations(network)
    layers = [
        name for name, module in network.named_modules() if isinstance(module, ConvertedLayer)
    ]
    assert "head" in found
    assert sorted(set(found) - set(layers)) == sorted(others)
    in_floats = count_float_layers(export(network, "onnx-int8"), tmp_path)
    assert in_floats == len(set(found) & set(layers))
