"""Networks as ONNX graphs: equal logits, integers where readers agree, and clear refusals."""

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.deploy.onnx_export import to_onnx
from trainables.deploy.onnx_graph import OnnxForm
from trainables.models.configs import UNetConfig
from trainables.quantization.convert import convert
from trainables.quantization.prepare import calibrate, prepare
from trainables.quantization.quantizers.configs import Lsq

FORMS: tuple[OnnxForm, ...] = ("onnx", "onnx-int8")


class Net(nn.Module):
    """Three convolutions of 4 channels behind an image of 3, and as many classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.head = nn.Conv2d(4, 4, 1)


class ReadersWithOwnGrids(Net):
    """Both later layers read what comes of the stem, each on a grid of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        result: Tensor = self.head(torch.cat([self.middle(x), x], 1))
        return result


class PoolsAndGrows(Net):
    """Modules and functions of one kind, beside an unused layer and a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.drop, self.relu = nn.Dropout(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % 4, 0, -height % 4))
        x = self.pool(self.relu(self.drop(self.stem(x))))
        self.head(x)
        x = F.relu(self.up(self.middle(F.max_pool2d(x, 2))))
        x = F.interpolate(x, scale_factor=2, mode="bilinear")
        result: Tensor = self.head(x)[..., :height, :width]
        return result


def logits_of(network: nn.Module, form: OnnxForm, images: Tensor) -> Tensor:
    model = to_onnx(network, 4, form, {})
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()  # without optimizations, some of which round anew
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (logits,) = session.run(None, {"images": images.numpy()})
    return torch.from_numpy(logits)


def built(network: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return network().eval()


@pytest.mark.parametrize("network", [ReadersWithOwnGrids, PoolsAndGrows])
@pytest.mark.parametrize("form", FORMS)
def test_a_float_network_gives_the_same_logits_at_any_size(
    network: type[nn.Module], form: OnnxForm
) -> None:
    model = convert(built(network))
    for size in ((2, 3, 16, 16), (1, 3, 13, 18)):
        images = torch.randn(size)
        with torch.no_grad():
            torch.testing.assert_close(
                logits_of(model, form, images), model(images), atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("network", [ReadersWithOwnGrids, PoolsAndGrows])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", [(8, 8), (4, 5), (4, 32), (32, 6)])
def test_a_quantized_network_gives_the_same_logits(
    network: type[nn.Module], form: OnnxForm, bits: tuple[int, int]
) -> None:
    model, images = built(network), torch.randn(2, 3, 16, 16)
    prepare(model, Lsq(weight_bits=bits[0], activation_bits=bits[1]))
    calibrate(model, images)
    model = convert(model)
    with torch.no_grad():
        expected = model(images)
    error = (logits_of(model, form, images) - expected).abs()
    # a value between two integers may be rounded to either, and biases are rounded
    assert error.median() <= 3e-5 * expected.abs().max()
    assert error.max() <= 0.02 * expected.abs().max()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
def test_what_is_pooled_and_joined_in_a_unet_stays_integers(
    form: OnnxForm, upsampling: str
) -> None:
    torch.manual_seed(0)
    student = UNetConfig.model_validate({"width": 4, "depth": 2, "upsampling": upsampling})
    model = prepare(student.build(5), Lsq(weight_bits=4, activation_bits=4))
    calibrate(model, torch.randn(2, 3, 16, 16))
    graph = onnx.shape_inference.infer_shapes(to_onnx(convert(model), 5, form, {})).graph
    kinds = {info.name: info.type.tensor_type.elem_type for info in graph.value_info}
    joined = [node for node in graph.node if node.op_type in ("MaxPool", "Concat", "DepthToSpace")]
    pads = {name for node in graph.node if node.op_type == "Pad" for name in node.input}
    for node in joined:
        assert pads & set(node.output) or kinds[node.output[0]] == onnx.TensorProto.UINT8
    assert len(joined) == 1 + 2 + 2 + (2 if upsampling == "transposed" else 0)
    assert sum(node.op_type == "Shape" for node in graph.node) == 1


class HasSoftplus(Net):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Softplus()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.act(self.stem(x)))
        return result


class HasExponential(Net):
    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(self.head(self.stem(x)))


class ResizesByArea(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.head(self.stem(x)), size=x.shape[-2:], mode="area")


class DropsAlways(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.head(self.stem(x)), 0.5)


class AddsWithAWeight(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.add(self.middle(x), x, alpha=2)


class ClampsByATensor(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.clamp(self.middle(x), max=x)


class PadsByReflection(Net):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.stem(x))
        return result


class SlicesBySteps(Net):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.stem(x))[..., ::2]
        return result


class GivesTwo(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.stem(x)), x


@pytest.mark.parametrize(
    ("network", "what"),
    [
        (HasSoftplus, r"Softplus\(.*\), its layer act"),
        (HasExponential, r"exp\(head\) behind its layer head"),
        (ResizesByArea, r"interpolate\(head, size=getitem, .*\) behind its layer head"),
        (DropsAlways, r"dropout\(head, p=0.5, .*\) behind its layer head"),
        (AddsWithAWeight, r"add\(middle, stem, alpha=2\) behind its layer middle"),
        (ClampsByATensor, r"clamp\(middle, max=stem\) behind its layer middle"),
        (PadsByReflection, r"Conv2d\(3, .*padding_mode=reflect\), its layer stem"),
        (SlicesBySteps, r"getitem\(head, .*\) behind its layer head"),
        (GivesTwo, r"output\(.*\) behind its layer head"),
    ],
)
def test_what_the_export_does_not_know_is_named(network: type[nn.Module], what: str) -> None:
    with pytest.raises(ValueError, match=f"{network.__name__} has {what}") as caught:
        to_onnx(convert(built(network)), 4, "onnx", {})
    assert "\n" not in str(caught.value)
