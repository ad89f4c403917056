"""Which channels of a traced network can only be removed together, found by its operations alone.

Every channel of a tensor gets a number, which goes with it through the operations: channels that
are added or multiplied become one, concatenation appends numbers, and a depthwise convolution
passes them on. An operation that is not known here fixes all channels that it reads, so that none
of them is ever removed; so are those of images and logits. Fang et al. 2023 (DepGraph, arXiv
2301.12900) group layers likewise, by the gradients of a network.

Channels are dimension 1 of each tensor, (B,C,H,W) or (B,C).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from trainables.core.command_line import first_line
from trainables.models.graph_network import GraphNetwork, read_argument
from trainables.models.network_graph import (
    NODE,
    SLICE,
    TUPLE,
    NetworkGraph,
    Operation,
    decode_graph,
    find_reads,
)
from trainables.models.trace_network import EXAMPLE_SIZES

Numbers = tuple[int, ...]
"""The numbers of the channels of a tensor, in their order."""
WHOLE: JsonValue = {SLICE: [None, None, None]}
"""The index that selects a whole dimension."""
Side = Literal["in", "out", "each"]
"""Where a layer has channels; normalisation and tensors have them once."""
MAX_CHANNELS = 1 << 20
"""Of all layers together: a damaged graph must not fill the memory."""
Convolution = nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d
Place = tuple[str, Side]
"""The name of a layer or of a tensor, and a side of it."""
BY_CHANNEL: Mapping[str, str] = {
    "BatchNorm1d": "num_features",
    "BatchNorm2d": "num_features",
    "InstanceNorm2d": "num_features",
    "PReLU": "num_parameters",
}
"""Layers that have parameters for each channel, with the option that says for how many."""
ELEMENTWISE = (
    "abs add clamp contiguous div dropout dropout2d elu exp expandas float gelu hardsigmoid"
    " hardswish hardtanh iadd identity imul isub itruediv leakyrelu log maximum minimum mish mul"
    " neg pow prelu relu relu6 rsqrt selu sigmoid silu softplus sqrt square sub tanh truediv"
    " typeas where"
)
"""Operations on each value alone, by `operation_name`; tensors are broadcast."""
SPATIAL = (
    "adaptiveavgpool2d adaptivemaxpool2d avgpool2d constantpad2d interpolate maxpool2d pad"
    " reflectionpad2d replicationpad2d resize upsample upsamplingbilinear2d upsamplingnearest2d"
    " zeropad2d"
)
"""Operations on the height and the width of maps (B,C,H,W)."""
REDUCTIONS = "mean sum amax squeeze"
"""Operations that keep all dimensions but those of `dim`."""
RESHAPES = "view reshape expand"
"""Operations that are given the sizes of their result."""


class Sizes(NamedTuple):
    """The shape of a tensor, as a value in the forward pass."""

    numbers: Numbers


class Count(NamedTuple):
    """How many channels a tensor has, as a value in the forward pass."""

    numbers: Numbers


class NoChannels:
    """What is known of a value that does not depend on the number of channels."""


NO_CHANNELS = NoChannels()


class ChannelGroup(NamedTuple):
    """Channels that have the same part in the network, some of which may be removed.

    Attributes:
        channels: the numbers of the channels, in their order in the first layer that has them.
        layers: the layers of whose output they are channels.
    """

    channels: Numbers
    layers: tuple[str, ...]


class ChannelGroups(NamedTuple):
    """The channels of a network by their numbers; those that are in no group stay.

    Attributes:
        groups: no two of them share a channel.
        places: for each side of each layer, and each tensor, the numbers of its channels.
        grouped: by the name of a convolution, the number of its groups where it is more than one.
        depthwise: convolutions of which each group has a single input channel.
        transposed: convolutions whose weights (C,K,h,w) begin with their input channels.
    """

    groups: tuple[ChannelGroup, ...]
    places: Mapping[Place, Numbers]
    grouped: Mapping[str, int]
    depthwise: frozenset[str]
    transposed: frozenset[str]


@lru_cache(maxsize=32)
def find_channel_groups(encoded: str) -> ChannelGroups:
    """The groups of the channels of an encoded graph.

    Their channels have equal parts in each layer, and in each group of a grouped convolution, so
    that the numbers of channels that are kept of them determine the widths of all layers.

    Raises:
        ValueError: the graph is that of no network.
    """
    graph = decode_graph(encoded)
    try:
        network, *shapes = run_shapes(graph)
        flow = ChannelFlow(graph, network, shapes)
        for number, operation in enumerate(graph.operations, start=1):
            flow.follow(number, operation)
    except Exception as error:  # operations of a damaged graph can raise anything
        raise ValueError(f"a traced network cannot be pruned: {first_line(error)}") from error
    flow.fix(flow.values[graph.logits])
    return flow.groups()


def run_shapes(graph: NetworkGraph) -> tuple[Any, ...]:
    """The network on the meta device, and what each operation gives for two sizes of images."""
    classes = [graph.layers[name].options for name in graph.classifiers]
    sizes = [options.get("out_channels", options.get("out_features")) for options in classes]
    num_classes = next((size for size in sizes if isinstance(size, int)), 1)
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        network = GraphNetwork(graph, nn.Identity(), num_classes).eval()
    found = []
    with torch.no_grad():
        for size in EXAMPLE_SIZES:
            values: dict[int, Any] = {0: torch.empty(2, 3, *size, device="meta")}
            for number, (operation, function) in enumerate(
                zip(graph.operations, network.functions, strict=True), start=1
            ):
                args = [read_argument(argument, values) for argument in operation.args]
                named = {key: read_argument(arg, values) for key, arg in operation.kwargs.items()}
                values[number] = function(network.network, *args, **named)
            found.append(values)
    return network.network, *found


def operation_name(graph: NetworkGraph, operation: Operation) -> str:
    """The name of an operation in lower case, the same for a layer, a function and a method."""
    name = operation.target
    if operation.kind == "layer":
        name = graph.layers[name].type
    return name.rpartition(".")[2].lower().replace("_", "")


Rule = Callable[[int, Operation, list[int]], Any]
"""Gives the channels of the result of an operation that has a number and reads others; None where
they are not known, and `NO_CHANNELS` where it does not depend on channels."""


class ChannelFlow:
    """Follows the numbers of channels through the operations of a graph.

    Args:
        network: the layers by their names.
        runs: what each operation gives, for two sizes of images.
    """

    def __init__(
        self, graph: NetworkGraph, network: nn.Module, runs: Sequence[Mapping[int, Any]]
    ) -> None:
        self.graph, self.network, self.runs = graph, network, runs
        self.parents: list[int] = []
        """Of each channel, another one that it is equal to, or itself."""
        self.fixed: set[int] = set()
        self.places: dict[Place, Numbers] = {}
        self.convolutions: dict[str, Convolution] = {}
        self.rules: Mapping[str, Rule] = {
            **dict.fromkeys(ELEMENTWISE.split(), self.broadcast),
            **dict.fromkeys(SPATIAL.split(), self.keep_in_space),
            **dict.fromkeys(REDUCTIONS.split(), self.reduce),
            **dict.fromkeys(RESHAPES.split(), self.reshape),
            **dict.fromkeys(("cat", "concat"), self.concatenate),
            **dict.fromkeys(("getattr", "size", "dim"), self.read_shape),
            "flatten": self.flatten,
            "getitem": self.select,
            "unsqueeze": self.unsqueeze,
        }
        self.values: dict[int, Numbers | Sizes | Count | None] = {}
        self.values[0] = self.fix(self.number(3))

    def number(self, count: int) -> Numbers:
        """New channels."""
        first = len(self.parents)
        if first + count > MAX_CHANNELS:
            raise ValueError(f"its layers have more than {MAX_CHANNELS:,} channels")
        self.parents += range(first, first + count)
        return tuple(range(first, first + count))

    def root(self, channel: int) -> int:
        """The channel that stands for all that are equal to one."""
        while self.parents[channel] != channel:
            self.parents[channel] = channel = self.parents[self.parents[channel]]
        return channel

    def join(self, one: Numbers, other: Numbers) -> None:
        """Makes channels equal."""
        for a, b in zip(one, other, strict=True):
            low, high = sorted((self.root(a), self.root(b)))
            self.parents[high] = low

    def fix(self, value: Numbers | Sizes | Count | None) -> Numbers:
        """Keeps all channels that a value is about."""
        numbers = value.numbers if isinstance(value, Sizes | Count) else value or ()
        self.fixed.update(numbers)
        return numbers

    def shape(self, number: int, run: int = 0) -> torch.Size:
        """The shape of the tensor that an operation gives; () where it gives none."""
        value = self.runs[run][number]
        return value.shape if isinstance(value, Tensor) else torch.Size()

    def keeps_channels(self, read: int, number: int) -> bool:
        """Whether two tensors are equal in the sizes of their first two dimensions."""
        return all(
            self.shape(read, run)[:2] == self.shape(number, run)[:2]
            for run in range(len(self.runs))
        )

    def place(self, name: str, side: Side, numbers: Numbers) -> Numbers:
        """Notes the channels of a layer; where it is called again, they are those of before."""
        known = self.places.setdefault((name, side), numbers)
        self.join(known, numbers)
        return known

    def follow(self, number: int, operation: Operation) -> None:
        """Finds the channels of what an operation gives."""
        reads = list(find_reads([*operation.args, *operation.kwargs.values()]))
        name = operation_name(self.graph, operation)
        found: Any = None
        if operation.kind == "layer" and (name == "prelu" or name not in self.rules):
            found = self.call_layer(operation, reads)
        elif operation.kind == "tensor":
            size = self.shape(number)
            found = self.number(size[1]) if len(size) > 1 else None
            found = found and self.place(operation.target, "each", found)
        elif name in self.rules:
            found = self.rules[name](number, operation, reads)
        if found is None:  # nothing is known of it
            for read in reads:
                self.fix(self.values[read])
            size = self.shape(number)
            found = self.fix(self.number(size[1])) if len(size) > 1 else None
        self.values[number] = None if found is NO_CHANNELS else found

    def channels(self, read: int) -> Numbers | None:
        """The channels of a tensor; None where a value is none, or has no dimension 1."""
        value = self.values[read]
        return None if isinstance(value, Sizes | Count) else value

    def call_layer(self, operation: Operation, reads: list[int]) -> Numbers | None:
        """The channels of the output of a layer with parameters."""
        name, read = operation.target, reads[0]
        layer = self.network.get_submodule(name)
        numbers = self.channels(read)
        if numbers is None or len(reads) > 1:
            return None
        if type(layer).__name__ in BY_CHANNEL:
            if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
                return numbers
            return self.place(name, "each", numbers)
        if not isinstance(layer, Convolution | nn.Linear):
            return None
        if len(self.shape(read)) != layer.weight.ndim:
            return None
        inputs = self.place(name, "in", numbers)
        if (name, "out") in self.places:
            return self.places[name, "out"]
        if isinstance(layer, nn.Linear):
            outputs = self.number(layer.out_features)
        else:
            self.convolutions[name] = layer
            outputs = self.number(layer.out_channels)
            if is_depthwise(layer):
                times = len(outputs) // len(inputs)
                self.join(outputs, tuple(each for each in inputs for _ in range(times)))
        if name in self.graph.classifiers:
            self.fix(outputs)
        return self.place(name, "out", outputs)

    def broadcast(self, number: int, _: Operation, reads: list[int]) -> Numbers | None:
        """Channels of tensors of as many dimensions are one; a single channel meets them all."""
        size, found = self.shape(number), []
        if len(size) < 2:
            return None
        for read in reads:
            own = self.shape(read)
            if isinstance(self.values[read], Sizes | Count) or (
                own.numel() > 1 and (len(own) != len(size) or own[1] not in (1, size[1]))
            ):
                return None
            if (numbers := self.channels(read)) is not None:
                if len(own) == len(size) and own[1] == size[1]:
                    found.append(numbers)
                else:
                    self.fix(numbers)
        for other in found[1:]:
            self.join(found[0], other)
        return found[0] if found else None

    def keep_in_space(self, number: int, operation: Operation, reads: list[int]) -> Numbers | None:
        """Height and width change, channels do not."""
        numbers = self.channels(reads[0])
        is_map = len(self.shape(reads[0])) == 4 and self.keeps_channels(reads[0], number)
        pads = [*operation.args[1:2], operation.kwargs.get("pad")]
        is_in_space = is_map and all(len(flat([pad])) <= 4 for pad in pads)
        reads_sizes = any(isinstance(self.values[read], Sizes | Count) for read in reads)
        return numbers if is_in_space and not reads_sizes else None

    def reduce(self, number: int, operation: Operation, reads: list[int]) -> Numbers | None:
        """Means and the like over dimensions after that of the channels."""
        dims = find_dims(operation, len(self.shape(reads[0])))
        is_known = bool(dims) and min(dims) > 1 and len(reads) == 1
        return self.channels(reads[0]) if is_known else None

    def unsqueeze(self, number: int, operation: Operation, reads: list[int]) -> Numbers | None:
        """A further dimension after that of the channels."""
        is_known = max(find_dims(operation, len(self.shape(number))), default=0) > 1
        return self.channels(reads[0]) if is_known and len(reads) == 1 else None

    def flatten(self, number: int, _: Operation, reads: list[int]) -> Numbers | None:
        """Flattening of height and width, or of maps of a single pixel."""
        is_kept = len(reads) == 1 and self.keeps_channels(reads[0], number)
        return self.channels(reads[0]) if is_kept else None

    def reshape(self, number: int, operation: Operation, reads: list[int]) -> Numbers | None:
        """Reshaping to sizes of which the second is -1 or a number of channels."""
        numbers, sizes = self.channels(reads[0]), flat(operation.args[1:])
        if numbers is None or operation.kwargs or len(sizes) < 2:
            return None
        if not self.keeps_channels(reads[0], number):
            return None
        of_sizes = [self.values[read] for size in sizes for read in find_reads(size)]
        counts = [value for value in of_sizes if isinstance(value, Count)]
        if any(isinstance(value, Sizes) for value in of_sizes):
            return None
        if sizes[1] == -1 and not counts:
            return numbers
        if len(counts) == 1 and isinstance(second := sizes[1], dict) and NODE in second:
            (read,) = find_reads(second)
            if self.values[read] is counts[0] and len(counts[0].numbers) == len(numbers):
                self.join(counts[0].numbers, numbers)
                return numbers
        return None

    def concatenate(self, number: int, operation: Operation, reads: list[int]) -> Numbers | None:
        """Concatenation of channels."""
        parts = [self.channels(read) for read in reads]
        if find_dims(operation, len(self.shape(number))) != [1] or None in parts:
            return None
        return tuple(each for part in parts for each in part or ())

    def read_shape(self, _: int, operation: Operation, reads: list[int]) -> Any:
        """A shape, or one of its sizes."""
        numbers = self.channels(reads[0])
        wanted = operation.args[1] if len(operation.args) > 1 else operation.kwargs.get("dim")
        if numbers is None or operation.target == "dim" or wanted == "ndim":
            return NO_CHANNELS
        if wanted is None or wanted == "shape":
            return Sizes(numbers)
        return select_size(numbers, wanted, len(self.shape(reads[0])))

    def select(self, number: int, operation: Operation, reads: list[int]) -> Any:
        """Sizes of a shape, or all channels of a part of a map, as `x[:, :, None, None]`."""
        value, index = self.values[reads[0]], operation.args[1]
        if isinstance(value, Sizes):
            return select_size(value.numbers, index, len(self.runs[0][reads[0]]))
        parts = index.get(TUPLE) if isinstance(index, dict) else None
        is_whole = isinstance(parts, list) and len(parts) > 1 and parts[:2] == [WHOLE, WHOLE]
        is_kept = is_whole and len(reads) == 1 and self.keeps_channels(reads[0], number)
        return self.channels(reads[0]) if is_kept else None

    def groups(self) -> ChannelGroups:
        """The groups, after all operations were followed."""
        convolutions = self.convolutions.items()
        depthwise = frozenset(name for name, layer in convolutions if is_depthwise(layer))
        grouped = {name: layer.groups for name, layer in convolutions if layer.groups > 1}
        parted = {name: count for name, count in grouped.items() if name not in depthwise}
        while True:
            found = self.partition(parted)
            uneven = [
                numbers
                for (name, _), numbers in self.places.items()
                if name in parted and not self.is_even(numbers, parted[name], found)
            ]
            if not uneven:
                break
            for numbers in uneven:
                self.fix(numbers)
        return ChannelGroups(
            groups=tuple(found),
            places={
                place: tuple(map(self.root, numbers)) for place, numbers in self.places.items()
            },
            grouped=grouped,
            depthwise=depthwise,
            transposed=frozenset(
                name for name, layer in convolutions if isinstance(layer, nn.ConvTranspose2d)
            ),
        )

    def partition(self, grouped: Mapping[str, int]) -> list[ChannelGroup]:
        """Channels that are not fixed, by how often they occur in which part of which layer."""
        parts: dict[int, Counter[tuple[Place, int]]] = defaultdict(Counter)
        for place, numbers in self.places.items():
            length = len(numbers) // grouped.get(place[0], 1)
            for index, channel in enumerate(numbers):
                parts[self.root(channel)][place, index // length] += 1
        fixed = {self.root(channel) for channel in self.fixed}
        alike: dict[frozenset[tuple[tuple[Place, int], int]], list[int]] = defaultdict(list)
        for channel, occurrences in parts.items():
            if channel not in fixed:
                alike[frozenset(occurrences.items())].append(channel)
        return [
            ChannelGroup(
                tuple(channels),
                tuple(sorted({name for ((name, side), _), _ in key if side == "out"})),
            )
            for key, channels in alike.items()
        ]

    def is_even(self, numbers: Numbers, count: int, groups: Iterable[ChannelGroup]) -> bool:
        """Whether all parts of a grouped convolution have as many channels, whatever is kept."""
        size_of = {channel: len(each.channels) for each in groups for channel in each.channels}
        length = len(numbers) // count
        parts = [numbers[start : start + length] for start in range(0, len(numbers), length)]
        sizes = [Counter(size_of.get(self.root(each)) for each in part) for part in parts]
        return all(each == sizes[0] for each in sizes)


def is_depthwise(layer: Convolution) -> bool:
    """Whether each group of a convolution has a single input channel."""
    return layer.groups == layer.in_channels > 1


def flat(arguments: Sequence[JsonValue]) -> list[JsonValue]:
    """Sizes that are given one by one, or as a list or tuple."""
    if len(arguments) == 1 and isinstance(only := arguments[0], list | dict):
        content = only if isinstance(only, list) else only.get(TUPLE)
        if isinstance(content, list):
            return content
    return list(arguments)


def find_dims(operation: Operation, ndim: int) -> list[int]:
    """The dimensions that an operation is given, from 0 on; none where it is given none."""
    named = operation.kwargs.get("dim", operation.kwargs.get("axis"))
    given = operation.args[1] if len(operation.args) > 1 else named
    dims = flat([given])
    is_whole = all(isinstance(dim, int) and not isinstance(dim, bool) for dim in dims)
    return sorted(int(str(dim)) % ndim for dim in dims) if is_whole and ndim else []


def select_size(numbers: Numbers, index: JsonValue, ndim: int) -> Any:
    """What an index of a shape gives; None where its meaning is not known."""
    if isinstance(index, int) and not isinstance(index, bool):
        return Count(numbers) if index % ndim == 1 else NO_CHANNELS
    if isinstance(index, dict) and SLICE in index:
        part = read_argument(index, {}) if not list(find_reads(index)) else None
        is_after = part is not None and 1 not in range(ndim)[part]
        return NO_CHANNELS if is_after else None
    return None
