"""A pruned network computes what the whole one does without the channels that were removed."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from compact_networks import compacted
from foreign_networks import Foreign, config_of, randomize
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import TrialConfig
from trainables.models.channel_groups import ChannelGroups, find_channel_groups
from trainables.models.channel_pruning import (
    count_kept,
    find_importance,
    prune_graph,
    select,
    slice_weight,
    weight_norms,
)
from trainables.models.configs import TracedConfig, build_normalization
from trainables.models.graph_network import GraphNetwork
from trainables.models.model_file import deserialize, read_model, serialize, write_model
from trainables.models.network_graph import LayerSpec, decode_graph
from trainables.models.trace_network import RecordedNetwork, record_network
from trainables.quantization.prepare import calibrate, prepare
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import Original, Ptq, Supervised
from trainables.training.cost import (
    count_macs,
    count_params,
    model_spec,
    predict_ram_bytes,
    predict_size_bytes,
)

IMAGES = torch.randn(2, 3, 64, 80, generator=torch.Generator().manual_seed(1))


class Parts(nn.Module):
    """A stem and a head, with a body of given layers that a function runs."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.body, self.head = run, nn.LazyConv2d(5, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self, F.relu(self.stem(images))))
        return logits


def chain(net: Any, x: Tensor) -> Tensor:
    return torch.tanh(net.b(F.hardswish(net.norm(net.a(x)))))


def residual(net: Any, x: Tensor) -> Tensor:
    y = net.b(torch.relu(net.a(x)))
    y += x
    return y * 0.5 + x


def inverted(net: Any, x: Tensor) -> Tensor:
    return x + net.project(F.relu6(net.depthwise(F.relu6(net.expand(x)))))


def multiplied(net: Any, x: Tensor) -> Tensor:
    return torch.relu(net.project(torch.sigmoid(net.depthwise(x))))


def skips(net: Any, x: Tensor) -> Tensor:
    deep = torch.relu(net.down(F.max_pool2d(x, 2)))
    joined = torch.cat([net.up(deep), x, F.interpolate(deep, size=x.shape[2:])], dim=1)
    return net.fuse(joined)  # type: ignore[no-any-return]


def excite(net: Any, x: Tensor) -> Tensor:
    b, c, _, _ = x.size()
    scale = net.fc2(torch.relu(net.fc1(F.adaptive_avg_pool2d(x, 1).view(b, c))))
    x = x * torch.sigmoid(scale).view(b, c, 1, 1)
    x = x * torch.sigmoid(net.gate(x.mean((2, 3))))[:, :, None, None]
    return x + net.fc3(x.mean([2, 3])).unsqueeze(-1).unsqueeze(2)


def grouped(net: Any, x: Tensor) -> Tensor:
    return net.up(torch.relu(net.groups(net.widen(x))))  # type: ignore[no-any-return]


def attended(net: Any, x: Tensor) -> Tensor:
    return torch.relu(net.a(x)) * torch.softmax(net.b(x), dim=1) + net.norm(net.c(x))


def split(net: Any, x: Tensor) -> Tensor:
    one, other = torch.chunk(net.a(x), 2, dim=1)
    return torch.cat([one, net.b(other)], 1) + net.c(x).sum(1, keepdim=True) / x.shape[1]


def normalised(net: Any, x: Tensor) -> Tensor:
    return F.normalize(x, dim=1)


def by_channel(net: Any, x: Tensor) -> Tensor:
    x = net.prelu(net.instance(F.pad(net.a(x), (1, 0, 1, 0), "reflect")))
    y = net.up(net.pool(x)[:, :, ::2])  # a depthwise transposed convolution
    y = F.interpolate(y, scale_factor=2.0) * net.norm(net.fc(y.mean((-1, -2))))[:, :, None, None]
    flat = y.reshape(y.shape[0], y.shape[1], -1).amax(2, keepdim=True).unsqueeze(-1)
    return y + flat.expand(-1, -1, *y.shape[2:]) * torch.sum(net.c(x), dim=(2, 3), keepdim=True)


def added_pairs(net: Any, x: Tensor) -> Tensor:
    return torch.cat([net.a(x), net.b(x)], 1) + net.c(x)


def conv(inputs: int, outputs: int, **options: Any) -> nn.Module:
    kernel = options.pop("kernel", 3)
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "chain": lambda: Parts(chain, a=conv(8, 12), norm=nn.BatchNorm2d(12), b=conv(12, 6)),
    "residual": lambda: Parts(residual, a=conv(8, 12), b=conv(12, 8)),
    "inverted": lambda: Parts(
        inverted,
        expand=conv(8, 16, kernel=1),
        depthwise=conv(16, 16, groups=16),
        project=conv(16, 8, kernel=1),
    ),
    "multiplied": lambda: Parts(multiplied, depthwise=conv(8, 16, groups=8), project=conv(16, 6)),
    "skips": lambda: Parts(
        skips, down=conv(8, 16), up=nn.ConvTranspose2d(16, 10, 2, 2), fuse=conv(34, 7)
    ),
    "excite": lambda: Parts(
        excite,
        fc1=nn.Linear(8, 4),
        fc2=nn.Linear(4, 8),
        gate=nn.Linear(8, 8),
        fc3=nn.Linear(8, 8),
    ),
    "grouped": lambda: Parts(
        grouped,
        widen=conv(8, 12, groups=2),
        groups=conv(12, 18, groups=3),
        up=nn.ConvTranspose2d(18, 8, 2, 2, groups=2),
    ),
    "attended": lambda: Parts(
        attended, a=conv(8, 8), b=conv(8, 8), c=conv(8, 8), norm=nn.GroupNorm(2, 8)
    ),
    "split": lambda: Parts(split, a=conv(8, 12), b=conv(6, 4), c=conv(8, 4)),
    "normalised": lambda: Parts(normalised),
    "by channel": lambda: Parts(
        by_channel,
        a=conv(8, 6),
        instance=nn.InstanceNorm2d(6, affine=True),
        prelu=nn.PReLU(6),
        pool=nn.AvgPool2d(2),
        up=nn.ConvTranspose2d(6, 12, 2, 2, groups=6),
        fc=nn.Linear(12, 12),
        norm=nn.BatchNorm1d(12),
        c=conv(6, 12),
    ),
    "added pairs": lambda: Parts(added_pairs, a=conv(8, 4), b=conv(8, 6), c=conv(8, 10)),
    "foreign": Foreign,
}
GROUPS: Mapping[str, list[tuple[int, str]]] = {
    "chain": [(8, "stem.0"), (12, "a"), (6, "b")],
    "residual": [(8, "b stem.0"), (12, "a")],
    "inverted": [(8, "project stem.0"), (16, "depthwise expand")],
    "multiplied": [(8, "depthwise stem.0"), (6, "project")],
    "skips": [(8, "stem.0"), (16, "down"), (10, "up"), (7, "fuse")],
    "excite": [(8, "fc2 fc3 gate stem.0"), (4, "fc1")],
    # each part of a grouped convolution loses as many channels; `widen` has parts of other sizes
    "grouped": [(4, "stem.0"), (4, "stem.0"), (4, "up"), (4, "up")],
    "attended": [(8, "stem.0")],
    "split": [(4, "b")],
    "normalised": [],
    "by channel": [(8, "stem.0"), (6, "a c fc up")],
    "added pairs": [(8, "stem.0"), (4, "a c"), (6, "b c")],
}


def recorded_of(make: Callable[[], nn.Module]) -> RecordedNetwork:
    network = make()
    with torch.no_grad():
        network(IMAGES)  # initialises lazy layers
    return record_network(randomize(network), nn.Identity(), "mine")


def student(network: RecordedNetwork, **fields: Any) -> TracedConfig:
    return config_of(network, "mine", **fields)


def built(config: TracedConfig, weights: Mapping[str, Tensor]) -> GraphNetwork:
    network = config.build(config.num_classes)
    config.initialize(network, weights)
    assert isinstance(network, GraphNetwork)
    return network.eval()


def without(found: ChannelGroups, keep: float, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the whole network in which all that belongs to removed channels is 0."""
    zeroed = {key: tensor.clone() for key, tensor in weights.items()}
    kept = select(found, keep, find_importance(found, weights))
    for (name, side), numbers in found.places.items():
        removed = sorted(set(range(len(numbers))) - set(kept[name, side]))
        prefix = f"network.{name}"
        if side == "each":
            if prefix in zeroed:
                zeroed[prefix][:, removed] = 0
            for key in ("weight", "bias", "running_mean"):
                if f"{prefix}.{key}" in zeroed:
                    zeroed[f"{prefix}.{key}"][removed] = 0
            continue
        weight = zeroed[f"{prefix}.weight"]
        if side == "out" and f"{prefix}.bias" in zeroed:
            zeroed[f"{prefix}.bias"][removed] = 0
        first = (side == "in") == (name in found.transposed)  # of the two dimensions of channels
        if first:
            weight[removed] = 0
            continue
        count = found.grouped.get(name, 1)
        rows, length = len(weight) // count, len(numbers) // count
        for channel in removed:
            part = channel // length
            weight[part * rows : (part + 1) * rows, channel - part * length] = 0
    return zeroed


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("keep", [0.6, 0.3, 0.15])
@torch.no_grad()
def test_a_pruned_network_computes_what_is_left(name: str, keep: float) -> None:
    network = recorded_of(NETWORKS[name])
    found = find_channel_groups(network.graph.encode())
    if not found.groups:
        with pytest.raises(ValueError, match="no channels of mine can be pruned where the share"):
            student(network, keep=keep).build(5)
        return
    whole = built(student(network), without(found, keep, network.weights))
    pruned = built(student(network, keep=keep), network.weights)
    torch.testing.assert_close(pruned(IMAGES), whole(IMAGES), rtol=1e-4, atol=1e-5)
    assert any(
        own.numel() < of_whole.numel()
        for own, of_whole in zip(pruned.parameters(), whole.parameters(), strict=True)
    )


@pytest.mark.parametrize("name", GROUPS)
def test_channels_that_depend_on_each_other_are_one_group(name: str) -> None:
    found = find_channel_groups(recorded_of(NETWORKS[name]).graph.encode())
    groups = [(len(group.channels), " ".join(group.layers)) for group in found.groups]
    assert groups == GROUPS[name]


def test_all_of_a_network_of_other_people_can_be_pruned() -> None:
    network = recorded_of(Foreign)
    found = find_channel_groups(network.graph.encode())
    layers = {layer for group in found.groups for layer in group.layers}
    weighted = {n for n, spec in network.graph.layers.items() if spec.type in ("Conv2d", "Linear")}
    assert layers == weighted - {"head"}
    pruned = prune_graph(network.graph.encode(), 0.5)
    assert pruned.tensors["gain"].shape == [1, 4, 1, 1]
    assert pruned.tensors["offset"].shape == [1, 3, 1, 1]
    assert prune_graph(network.graph.encode(), 0.99) == decode_graph(network.graph.encode())
    assert pruned.layers["head"].options["in_channels"] == 4


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.75, 1.0])
def test_a_share_of_each_group_is_kept(keep: float) -> None:
    assert count_kept(keep, 1) == 1
    assert count_kept(keep, 100) == 100 * keep
    found = find_channel_groups(recorded_of(Foreign).graph.encode())
    kept = select(found, keep, {})
    for (name, side), indices in kept.items():
        assert indices, name
        if side == "out":  # of equal ones the first
            assert indices == list(range(len(indices)))


def test_no_layer_is_left_without_channels() -> None:
    graph = recorded_of(Foreign).graph.encode()
    reason = "must leave some of the 8 channels of layer .*, but got 0.06$"
    with pytest.raises(ValueError, match=reason):
        prune_graph(graph, 0.06)
    assert prune_graph(graph, 0.13).layers["head"].options["in_channels"] == 1


@torch.no_grad()
def test_the_most_important_channels_are_kept() -> None:
    network = recorded_of(NETWORKS["chain"])
    encoded, weights = network.graph.encode(), dict(network.weights)
    found = find_channel_groups(encoded)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    weights["network.a.weight"] = torch.ones(12, 8, 3, 3) * (1 + order[:, None, None, None])
    largest = [index for index in range(12) if order[index] >= 6]
    kept = select(found, 0.5, find_importance(found, weights))
    assert kept["a", "out"] == kept["norm", "each"] == kept["b", "in"] == largest


def test_the_importance_of_added_channels_is_a_mean_of_relative_norms() -> None:
    network = recorded_of(NETWORKS["residual"])
    weights, found = dict(network.weights), find_channel_groups(network.graph.encode())
    weights["network.b.weight"] = 1000 * torch.ones(8, 12, 3, 3)  # says nothing of any channel
    importance = find_importance(found, weights)
    norms = weights["network.stem.0.weight"].double().abs().flatten(1).sum(1)
    expected = (1 + norms / norms.mean()) / 2
    of_stem = [importance[channel] for channel in found.places["stem.0", "out"]]
    torch.testing.assert_close(of_stem, expected.tolist())


def test_a_layer_of_zeros_has_channels_of_no_importance() -> None:
    network = recorded_of(NETWORKS["chain"])
    weights, found = dict(network.weights), find_channel_groups(network.graph.encode())
    weights["network.a.weight"] = torch.zeros(12, 8, 3, 3)
    assert {find_importance(found, weights)[each] for each in found.places["a", "out"]} == {0}


def test_norms_and_slices_of_grouped_transposed_convolutions() -> None:
    found = find_channel_groups(recorded_of(NETWORKS["grouped"]).graph.encode())
    weight = torch.rand(18, 4, 2, 2)
    expected = [float(weight[9 * (o // 4) : 9 * (o // 4) + 9, o % 4].sum()) for o in range(8)]
    torch.testing.assert_close(weight_norms("up", weight, found).tolist(), expected)
    kept = {("up", "in"): [0, 8, 9, 17], ("up", "out"): [1, 6]}
    sliced = slice_weight("up", weight, kept, found)  # type: ignore[arg-type]
    torch.testing.assert_close(sliced[:, 0], weight[[0, 8, 9, 17], [1, 1, 2, 2]])


@pytest.mark.parametrize("bits", [None, 8, 3])
@torch.no_grad()
def test_costs_of_a_pruned_student_are_predicted_exactly(bits: int | None) -> None:
    network = recorded_of(Foreign)
    pruned = student(network, keep=0.5)
    quantizer = Lsq(weight_bits=bits, activation_bits=8) if bits else None
    recipe = Ptq(quantizer=quantizer) if quantizer else Supervised()
    config = TrialConfig(student=pruned, recipe=recipe, num_epochs=1)
    model = built(pruned, network.weights)
    num_params = sum(parameter.numel() for parameter in model.parameters())
    assert count_params(pruned, 5) == num_params
    if quantizer:
        calibrate(prepare(model, quantizer), IMAGES)
    content = serialize(model, model_spec(config, 5))
    assert len(content) == predict_size_bytes(config, 5)
    exact = model_spec(config, 5).replace(format=2)
    expected, found = model.eval()(IMAGES), deserialize(serialize(model, exact))(IMAGES)
    assert torch.equal(deserialize(content)(IMAGES), compacted(model)(IMAGES))
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.999
    whole = config.replace(student=student(network))
    assert num_params < count_params(whole.student, 5) / 2
    assert count_macs(pruned, 5, 64, 80) < count_macs(whole.student, 5, 64, 80) / 2
    assert predict_ram_bytes(config, 5, 64, 80) <= predict_ram_bytes(whole, 5, 64, 80)


def test_a_pruned_network_is_trained_from_what_it_was(tmp_path: Any) -> None:
    network = recorded_of(Foreign)
    whole, pruned = student(network), student(network, keep=0.25)
    assert (pruned.is_pretrained, pruned.is_trained) == (True, False)
    assert (whole.original, pruned.original) == (whole, whole)
    assert student(network, keep=0.25, new_head=True).original is None
    assert (whole.describe(), pruned.describe()) == ("mine", "mine 0.25")
    assert pruned.weights_key() == whole.weights_key()
    with pytest.raises(ValidationError, match=r"that came trained, but got mine 0\.25"):
        TrialConfig(student=pruned, recipe=Original(), num_epochs=1)
    model = built(pruned, network.weights).train()
    F.cross_entropy(model(IMAGES), torch.zeros(2, 64, 80, dtype=torch.long)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    card = model_spec(TrialConfig(student=pruned, recipe=Supervised()), 5).replace(folded=False)
    write_model(tmp_path / "model", model.eval(), card)
    kept = dict(read_model(tmp_path / "model").named_parameters())
    torch.testing.assert_close(kept, dict(model.named_parameters()))


def test_a_new_classifier_reads_the_channels_that_are_kept() -> None:
    network = recorded_of(Foreign)
    config = student(network, keep=0.5, new_head=True)
    model = config.build(9)
    config.initialize(model, network.weights)
    assert model.state_dict()["network.head.weight"].shape == (9, 4, 1, 1)
    assert model(IMAGES).shape == (2, 9, 64, 80)


def test_a_network_whose_norms_are_folded_is_known() -> None:
    assert student(recorded_of(NETWORKS["chain"])).normalizes
    folded = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1))
    assert not student(recorded_of(lambda: folded)).normalizes


def test_the_share_is_written_only_where_it_is_set() -> None:
    network = recorded_of(NETWORKS["chain"])
    whole = student(network)
    assert "keep" not in whole.model_dump()
    assert student(network, keep=1.0).digest() == whole.digest()
    assert student(network, keep=0.5).digest() != whole.digest()
    for keep in (0.0, 1.5):
        with pytest.raises(ValidationError, match="keep"):
            student(network, keep=keep)
    with pytest.raises(ValueError, match=r"can be pruned where the share 0\.99 is kept"):
        student(network, keep=0.99).build(5)


def test_a_damaged_graph_is_refused_in_one_line() -> None:
    graph = recorded_of(NETWORKS["chain"]).graph

    def build(**changes: Any) -> None:
        damaged = graph.replace(**changes)
        text = damaged.encode()
        TracedConfig(label="x", graph=text, num_classes=5, weights="0" * 16, keep=0.5).build(5)

    *operations, last = graph.operations
    with pytest.raises(ValueError, match="a traced network cannot be pruned: "):
        build(operations=[*operations, last.replace(kwargs={"odd": 1})])
    wide = {
        name: LayerSpec(type="Conv2d", options={**graph.layers[name].options, side: 1 << 30})
        for name, side in (("b", "out_channels"), ("head", "in_channels"))
    }
    with pytest.raises(ValueError, match="cannot be pruned: its layers have more than 1,048,576"):
        build(layers={**graph.layers, **wide})


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
@torch.no_grad()
def test_torchvision_networks_are_pruned(name: str) -> None:
    from torchvision.models import get_model

    network = get_model(name, weights=None, weights_backbone=None, num_classes=5, aux_loss=False)
    recorded = record_network(randomize(network), build_normalization("imagenet"), name)
    sizes = []
    for keep in (1.0, 0.75, 0.5):
        config = student(recorded, keep=keep)
        model = built(config, recorded.weights)
        assert model(IMAGES).isfinite().all()
        sizes.append(sum(parameter.numel() for parameter in model.parameters()))
    assert all(after < 0.8 * before for before, after in pairwise(sizes))
    found = find_channel_groups(recorded.graph.encode())
    weighted = {n for n, spec in recorded.graph.layers.items() if spec.type == "Conv2d"}
    pruned = {layer for group in found.groups for layer in group.layers}
    assert pruned == weighted - set(recorded.graph.classifiers)
    assert decode_graph(recorded.graph.encode()) == recorded.graph
