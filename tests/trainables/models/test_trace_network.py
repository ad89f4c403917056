"""Networks of other people's code become data, and compute what they did."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from foreign_networks import Foreign, Products, config_of, randomize
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from trainables.config import TrialConfig
from trainables.data.augmentation import resize
from trainables.models.configs import STATISTICS, TracedConfig, build_normalization
from trainables.models.graph_network import GraphNetwork
from trainables.models.model_file import ModelSpec, check_length, deserialize, serialize
from trainables.models.network_graph import NetworkGraph, decode_graph
from trainables.models.trace_network import RecordedNetwork, record_network
from trainables.quantization.convert import ConvertedLayer
from trainables.quantization.graph import find_foldable, find_input_groups
from trainables.quantization.prepare import calibrate, prepare
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import Ptq
from trainables.training.cost import model_spec, predict_size_bytes

IDENTITY = nn.Identity()
IMAGES = torch.randn(2, 3, 72, 90, generator=torch.Generator().manual_seed(1))


def recorded_of(network: nn.Module) -> RecordedNetwork:
    return record_network(network, IDENTITY, "mine")


@pytest.fixture(scope="module")
def foreign() -> RecordedNetwork:
    return recorded_of(randomize(Foreign()))


def built(network: RecordedNetwork, **fields: Any) -> nn.Module:
    config = config_of(network, **fields)
    model = config.build(network.num_classes)
    config.initialize(model, network.weights)
    return model.eval()


@torch.no_grad()
def test_a_foreign_network_computes_the_same_from_data_alone(foreign: RecordedNetwork) -> None:
    expected = randomize(Foreign())(IMAGES)["out"]
    model = built(foreign)
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-5, atol=1e-5)
    outputs = model.native_outputs(IMAGES)  # type: ignore[operator]
    assert outputs.logits.shape == (2, 5, 36, 45)  # the last resizing is left to the caller
    assert outputs.features.shape == (2, 8, 18, 23)
    assert foreign.num_classes == 5
    assert foreign.float_operations == []
    assert "aux" not in foreign.graph.layers
    assert foreign.graph.classifiers == ["head"]
    assert list(foreign.graph.tensors) == ["offset", "gain"]
    assert not foreign.graph.tensors["offset"].is_parameter


def test_a_graph_survives_text(foreign: RecordedNetwork) -> None:
    text = foreign.graph.encode()
    assert decode_graph(text).encode() == text
    assert json.loads(json.dumps(text)) == text
    assert len(text) < 2000


def test_a_traced_network_trains_and_its_modules_have_their_names(foreign: RecordedNetwork) -> None:
    model = built(foreign).train()
    F.cross_entropy(model(IMAGES), torch.zeros(2, 72, 90, dtype=torch.long)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    names = {f"network.{name}" for name in randomize(Foreign()).state_dict()}
    assert {n for n in names if ".aux." not in n} == set(model.state_dict())
    groups = {model.group_of(name) for name in ("network.head", "network.fuse")}  # type: ignore[operator]
    assert groups == {"decoder"}
    assert model.group_of("network.stem.0") == "encoder"  # type: ignore[operator]


def test_quantization_reaches_every_layer_by_the_graph(foreign: RecordedNetwork) -> None:
    model = built(foreign)
    assert len(find_foldable(model)) == 7
    (group,) = (g for g in find_input_groups(model) if "network.fuse" in g)
    assert group == ("network.stages.0.body.expand", "network.fuse")


@torch.no_grad()
@pytest.mark.parametrize("bits", [None, 8, 3])
def test_a_model_file_holds_the_network_and_needs_nothing_else(
    foreign: RecordedNetwork, bits: int | None
) -> None:
    quantizer = Lsq(weight_bits=bits, activation_bits=8) if bits else None
    model = built(foreign)
    if quantizer:
        calibrate(prepare(model, quantizer), IMAGES)
    spec = ModelSpec(
        model=config_of(foreign), num_classes=5, quantizer=quantizer, with_additions=True
    )
    expected = model.eval()(IMAGES)
    found = deserialize(serialize(model, spec))(IMAGES)
    agree = (found.argmax(1) == expected.argmax(1)).float().mean()
    assert agree > 0.999


@pytest.mark.parametrize("name", STATISTICS)
@torch.no_grad()
def test_a_network_knows_the_normalisation_that_it_was_trained_with(name: Any) -> None:
    network = randomize(Foreign())
    normalization = build_normalization(name)
    model = built(record_network(network, normalization, "mine"), input_normalization=name)
    expected = network(normalization(IMAGES))["out"]
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-5, atol=1e-5)


def test_a_new_head_is_new_and_the_rest_is_kept(foreign: RecordedNetwork) -> None:
    config = config_of(foreign, new_head=True)
    assert not config.is_trained
    model = config.build(9)
    config.initialize(model, foreign.weights)
    state = model.state_dict()
    assert state["network.head.weight"].shape == (9, 8, 1, 1)
    for name, tensor in foreign.weights.items():
        if not name.startswith("network.head."):
            assert torch.equal(state[name], tensor)
    with pytest.raises(
        ValueError, match=r"of the 9 classes of the data, but foreign has 5: --new-"
    ):
        config_of(foreign).build(9)


class Output(nn.Module):
    """A convolution behind which something is done."""

    def __init__(self, what: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.what = nn.Conv2d(3, 4, 1), what

    def forward(self, images: Tensor) -> Any:
        return self.what(self.layer(images))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.layer = nn.Conv2d(3, 4, 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer(images)
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens)[0].transpose(1, 2).view(x.shape)


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "control flow": (Output(lambda x: x if x.sum() > 0 else -x), "cannot be compressed: .*trac"),
    "layer": (Attention(), "operation attention: a layer of type MultiheadAttention cannot be"),
    "function": (
        Output(lambda x: torch.fft.fft2(x).abs()),
        "operation fft_fft2: the function .*fft",
    ),
    "method": (Output(lambda x: x.cumsum(1)), "operation cumsum: the method cumsum of a tensor"),
    "attribute": (Output(lambda x: x * x.itemsize), "operation getattr_1: the attribute itemsize"),
    "argument": (
        Output(lambda x: x + x.sum(1, True, dtype=torch.half)),
        "operation sum_1: an argument",
    ),
    "one class": (Output(lambda x: x[:, :1]), "two classes or more, but gives 1: where it tells"),
    "probabilities": (Output(lambda x: x.softmax(1)), "must give logits, but ends with softmax"),
    "sizes that differ": (
        Output(lambda x: x if x.shape[2] % 128 == 0 else -x),
        "cannot be compressed: .*traceable",
    ),
    "no map": (Output(lambda x: x.mean((2, 3))), r"must give logits .*a tensor of shape \(1, 4\)"),
    "nothing": (Output(lambda x: None), "must give logits .*but gives none"),
    "size": (Output(lambda x: x.view(-1, 4, 64, 256)), "must run on images of 96 x 160"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_recorded_is_named(case: str) -> None:
    network, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^mine .*{message}"):
        recorded_of(network)


def test_operations_on_weights_that_no_quantizer_reaches_are_named() -> None:
    assert recorded_of(Products()).float_operations == ["grouped", "conv2d"]


@torch.no_grad()
def test_operations_that_no_quantizer_reaches_stay_in_float_and_are_counted() -> None:
    network = recorded_of(randomize(Products()))
    config = TrialConfig(
        student=config_of(network), recipe=Ptq(quantizer=Lsq(weight_bits=4)), num_epochs=1
    )
    model = prepare(built(network), Lsq(weight_bits=4))
    calibrate(model, IMAGES)
    content = serialize(model, model_spec(config, 5))
    assert len(content) == predict_size_bytes(config, 5)
    shipped = deserialize(content)
    assert isinstance(shipped.get_submodule("network.layer"), ConvertedLayer)
    assert type(shipped.get_submodule("network.grouped")) is nn.ConvTranspose2d
    agree = (shipped(IMAGES).argmax(1) == model(IMAGES).argmax(1)).float().mean()
    assert agree > 0.999


EVIL: dict[str, dict[str, Any]] = {
    "function": {"kind": "function", "target": "os.system", "args": [{"node": 0}]},
    "builtin": {"kind": "function", "target": "eval", "args": [{"node": 0}]},
    "attribute": {"kind": "function", "target": "getattr", "args": [{"node": 0}, "__class__"]},
    "method": {"kind": "method", "target": "__reduce__", "args": [{"node": 0}]},
    "code": {"kind": "layer", "target": "a;import os"},
    "tensor": {"kind": "tensor", "target": "__dict__"},
}


def build_graph(**content: Any) -> GraphNetwork:
    fields = {"layers": {}, "operations": [], "logits": 0, "features": 0, "classifiers": []}
    return GraphNetwork(NetworkGraph.model_validate({**fields, **content}), IDENTITY, 5)


@pytest.mark.parametrize("case", EVIL)
def test_a_graph_cannot_name_code(case: str) -> None:
    with pytest.raises(
        ValueError, match=r"operation must be a known|attribute must|pattern|there is no tensor"
    ):
        build_graph(operations=[EVIL[case]])


def test_a_layer_must_be_one_of_torch() -> None:
    with pytest.raises(ValueError, match="a layer must be one of Conv1d"):
        build_graph(layers={"a": {"type": "Module"}})


@pytest.mark.parametrize("name", ["a..b", "", "a;b", "__class__.x y"])
def test_a_layer_must_have_a_plain_name(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a module"):
        build_graph(layers={name: {"type": "ReLU"}})


@pytest.mark.parametrize("text", ["", "nonsense!", "c$}-5", "\x00"])
def test_damaged_text_is_no_graph(text: str) -> None:
    with pytest.raises(ValueError, match="must be whole, but it is damaged"):
        decode_graph(text)


RELU = {"layers": {"a": {"type": "ReLU"}}}
DAMAGED: dict[str, dict[str, Any]] = {
    "later": {**RELU, "operations": [{"kind": "layer", "target": "a", "args": [{"node": 1}]}]},
    "negative": {**RELU, "operations": [{"kind": "layer", "target": "a", "args": [{"node": -1}]}]},
    "no number": {
        **RELU,
        "operations": [{"kind": "layer", "target": "a", "args": [{"node": "x"}]}],
    },
    "odd object": {**RELU, "operations": [{"kind": "layer", "target": "a", "args": [{"x": []}]}]},
    "no layer": {"operations": [{"kind": "layer", "target": "a", "args": [{"node": 0}]}]},
    "constant": {"operations": [{"kind": "function", "target": "operator.mul", "args": [[1], 9]}]},
    "logits": {"logits": 3},
    "features": {"features": -1},
    "classifier": {"classifiers": ["a"]},
    "option": {"layers": {"a": {"type": "ReLU", "options": {"foo": 1}}}},
    "channels": {
        "layers": {
            "a": {"type": "Conv2d", "options": {"in_channels": -1, "kernel_size": 1}},
        },
        "classifiers": ["a"],
    },
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_graph_is_an_error_and_no_crash(case: str) -> None:
    with pytest.raises(ValueError, match=r"validation error for NetworkGraph|cannot be built"):
        build_graph(**DAMAGED[case])


def test_a_graph_that_would_fill_the_memory_is_refused_before_it_is_built() -> None:
    content = {"tensors": {"t": {"shape": [10**12], "is_parameter": False}}}
    fields = {"layers": {}, "operations": [], "logits": 0, "features": 0, "classifiers": []}
    graph = NetworkGraph.model_validate({**fields, **content})
    config = TracedConfig(label="x", graph=graph.encode(), num_classes=5, weights="0" * 16)
    with pytest.raises(ValueError, match="fewer values than its network has"):
        check_length(ModelSpec(model=config, num_classes=5), 10**6)


class Plain(nn.Module):
    """A U-Net as tutorials have it, which takes multiples of 2, and a switch for its caller."""

    def __init__(self, scale: int | None = None) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True))
        self.deep = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.head = nn.Conv2d(16, 8, 1)
        self.scale = scale

    def forward(self, images: Tensor, mask: Tensor | None = None, flip: bool = False) -> Tensor:
        if flip:
            images = images.flip(-1)
        skip = self.down(images)
        x = F.relu(self.deep(F.max_pool2d(skip, 2)))
        x = self.head(torch.cat([self.up(x), skip], 1)[..., :])
        if self.scale is not None:
            x = F.interpolate(x[:, :, ::4, ::4], scale_factor=self.scale, mode="bilinear")
        return x if mask is None else x * mask


@torch.no_grad()
@pytest.mark.parametrize("scale", [None, 4, 2])
def test_other_arguments_have_their_defaults(scale: int | None) -> None:
    network = randomize(Plain(scale))
    recorded = recorded_of(network)
    torch.testing.assert_close(
        built(recorded).native_outputs(IMAGES).resize_logits((72, 90)).logits,  # type: ignore[operator]
        resize(network(IMAGES), (72, 90)),
        rtol=1e-5,
        atol=1e-5,
    )
    assert recorded.graph.classifiers == ["head"]  # although other layers have as many outputs


def test_weights_that_are_computed_are_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1))
    torch.nn.utils.parametrizations.weight_norm(network[0])
    with pytest.raises(ValueError, match=r"mine cannot be compressed, because .*0"):
        recorded_of(network)


def test_an_argument_that_json_does_not_have_is_named() -> None:
    network = Output(lambda x: F.pad(x, (1, 1), value=float("-inf")))
    with pytest.raises(ValueError, match=r"because of its operation pad: an argument must be a"):
        recorded_of(network)


def test_logits_may_be_0() -> None:
    assert recorded_of(Output(lambda x: x * 0)).num_classes == 4


SIZES: dict[str, Callable[[Tensor], Tensor]] = {
    "starred slice": lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, *x.shape[2:]) + x,
    "starred shape": lambda x: x.flatten(2).view(*x.shape),
    "unpacked": lambda x: F.interpolate(x[..., ::2, ::2], size=[*x.shape[-2:]], mode="nearest"),
    "starred size": lambda x: x.flatten(2).view(*x.size()),
    "one by one": lambda x: x.flatten(2).view(x.shape[0], x.size(1), x.shape[2], x.size(3)),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_may_be_unpacked(case: str) -> None:
    network = randomize(Output(SIZES[case]))
    with torch.no_grad():
        torch.testing.assert_close(built(recorded_of(network))(IMAGES), network(IMAGES))


class Checked(nn.Module):
    """What other libraries' networks do: checks of sizes, constants, and fused normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)  # no buffer
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), FusedNorm(4))
        self.frozen, self.synchronised = FrozenBatchNorm2d(4), nn.SyncBatchNorm(4)
        self.head = nn.Conv2d(4, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[1] == 3
        height, width = images.shape[-2:]
        if height % 16 != 0 or width % 16 != 0:
            raise RuntimeError("sizes must be multiples of 16")
        x = (images - self.mean) / torch.tensor(0.5)
        x = self.synchronised(self.frozen(self.stem(x)))
        logits = self.head(x)
        if logits.shape[-2:] != images.shape[-2:]:
            logits = F.interpolate(logits, size=(height, width), mode="bilinear")
        return logits


class FusedNorm(nn.BatchNorm2d):
    """As timm's, with its activation."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, input: Tensor) -> Tensor:
        normalised: Tensor = self.act(super().forward(input))
        return normalised


@pytest.mark.parametrize("is_wrapped", [False, True])
@torch.no_grad()
def test_networks_of_other_libraries_compute_the_same(is_wrapped: bool) -> None:
    network = randomize(Checked())
    images = IMAGES[..., :64, :80]
    expected = network(images)
    recorded = recorded_of(nn.DataParallel(network) if is_wrapped else network)
    torch.testing.assert_close(built(recorded)(images), expected, rtol=1e-4, atol=1e-5)
    assert recorded.float_operations == []
    norms = {spec.type for spec in recorded.graph.layers.values()}
    assert "BatchNorm2d" in norms
    assert not norms & {"SyncBatchNorm", "FusedNorm"}
