"""The network that a `NetworkGraph` describes, built from layers of torch.nn alone.

Shape suffixes: B batch, C channels, K classes, H height, W width.
"""

import inspect
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, fx, nn
from torch.nn import functional as F

from trainables.core.command_line import first_line
from trainables.data.augmentation import resize
from trainables.models.base import Outputs, StudentNetwork
from trainables.models.network_graph import (
    ELLIPSIS,
    NODE,
    SLICE,
    TUPLE,
    NetworkGraph,
    Operation,
    find_reads,
)

fx.wrap("resize")  # one operation of the graph, since its effect depends on sizes

LAYERS: Mapping[str, type[nn.Module]] = {
    layer.__name__: layer
    for layer in (
        *(nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear),
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d),
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.Hardtanh),
        *(nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.Mish, nn.Softplus),
        *(nn.Sigmoid, nn.Tanh, nn.Softmax, nn.Identity, nn.Dropout, nn.Dropout2d),
        *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
        *(nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d, nn.PixelShuffle),
        *(nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
        *(nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.PixelUnshuffle),
    )
}
"""Types of layers by the names that graphs have for them."""
OPERATORS = "add sub mul truediv floordiv mod neg pow matmul getitem iadd isub imul itruediv"
TORCH_FUNCTIONS = (
    "abs add bmm cat chunk clamp concat div exp flatten log matmul maximum mean minimum mul permute"
    " pow relu relu_ reshape rsqrt sigmoid softmax split sqrt squeeze stack sub sum swapaxes tanh"
    " transpose unsqueeze where zeros_like ones_like square conv2d amax"
)
NN_FUNCTIONS = (
    "adaptive_avg_pool2d adaptive_max_pool2d avg_pool2d batch_norm conv2d dropout dropout2d elu"
    " gelu group_norm hardsigmoid hardswish hardtanh interpolate layer_norm leaky_relu linear"
    " max_pool2d mish normalize pad pixel_shuffle pixel_unshuffle prelu relu relu6 relu_"
    " scaled_dot_product_attention sigmoid silu softmax softplus tanh upsample"
)
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in OPERATORS.split()},
    **{f"torch.{name}": getattr(torch, name) for name in TORCH_FUNCTIONS.split()},
    **{f"functional.{name}": getattr(F, name) for name in NN_FUNCTIONS.split()},
    "getattr": getattr,
    "int": int,
    "math.prod": math.prod,
    "resize": resize,
}
"""Functions by the names that graphs have for them."""
FUNCTION_NAMES: Mapping[object, str] = {
    function: name for name, function in reversed(list(FUNCTIONS.items()))
}
METHOD_NAMES = (
    "abs add add_ amax bmm chunk clamp clamp_ contiguous dim div div_ exp expand expand_as flatten"
    " float log matmul mean mul mul_ permute pow relu relu_ repeat reshape rsqrt sigmoid sigmoid_"
    " size softmax split sqrt square squeeze sub sub_ sum t tanh transpose type_as unsqueeze view"
    " view_as"
)
METHODS = frozenset(METHOD_NAMES.split())
"""Methods of tensors that graphs may call."""
ATTRIBUTES = ("shape", "ndim")
"""Attributes of tensors that graphs may read."""


class GraphNetwork(StudentNetwork):
    """Maps images (B,3,H,W) to raw logits (B,K,H,W).

    Its modules have the names that they have in the network that was traced, so that its state dict
    fits `network`.

    Args:
        graph: the operations.
        normalization: maps images as all networks get them to those that the network knows.
        num_classes: of the classifiers, whatever number they were traced with.

    Raises:
        ValueError: the graph has an operation that is in no table here.
    """

    def __init__(self, graph: NetworkGraph, normalization: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.graph, self.normalization, self.network = graph, normalization, nn.Module()
        try:
            self._build(num_classes)
        except Exception as error:  # torch's layers raise anything for options that make no sense
            raise ValueError(f"a traced network cannot be built: {first_line(error)}") from error
        self.last_reads = find_last_reads(graph)
        layers = [op.target if op.kind == "layer" else None for op in graph.operations]
        encoder, decoder = layers[: graph.features], layers[graph.features :]
        self.layer_groups: Mapping[str, tuple[str, ...]] = {
            "encoder": tuple(f"network.{name}" for name in encoder if name),
            "decoder": tuple(f"network.{name}" for name in decoder if name not in (None, *encoder)),
        }

    def _build(self, num_classes: int) -> None:
        """Registers the layers and tensors, and finds the functions of the operations."""
        for name, spec in self.graph.layers.items():
            options = {key: read_argument(value, {}) for key, value in spec.options.items()}
            if name in self.graph.classifiers:
                options["out_features" if spec.type == "Linear" else "out_channels"] = num_classes
            register(self.network, name, layer_type(spec.type)(**options))
        for name, tensor in self.graph.tensors.items():
            values = torch.ones(tensor.shape)  # untrained, a gain must not be 0
            register(self.network, name, nn.Parameter(values) if tensor.is_parameter else values)
        self.functions = [find_function(operation) for operation in self.graph.operations]

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return self.native_outputs(images_B3HW).resize_logits(images_B3HW.shape[-2:]).logits

    def native_outputs(self, images_B3HW: Tensor) -> Outputs:
        """Logits and the deepest feature map; which layers decode is not known."""
        values = {0: self.normalization(images_B3HW)}
        steps = zip(self.graph.operations, self.functions, self.last_reads, strict=True)
        for number, (operation, function, last_reads) in enumerate(steps, start=1):
            args = [read_argument(argument, values) for argument in operation.args]
            named = {name: read_argument(value, values) for name, value in operation.kwargs.items()}
            values[number] = function(self.network, *args, **named)
            for read in last_reads:
                del values[read]
        return Outputs(values[self.graph.logits], values[self.graph.features])


def layer_type(name: str) -> type[nn.Module]:
    if name not in LAYERS:
        raise ValueError(f"a layer must be one of {', '.join(LAYERS)}, but got {name!r}")
    return LAYERS[name]


def register(network: nn.Module, name: str, what: nn.Module | Tensor) -> None:
    """Registers a module, a parameter or a buffer under a dotted name."""
    *holders, last = name.split(".")
    for holder in holders:
        if not hasattr(network, holder):
            network.add_module(holder, nn.Module())
        network = network.get_submodule(holder)
    if isinstance(what, nn.Module):
        network.add_module(last, what)
    elif isinstance(what, nn.Parameter):
        network.register_parameter(last, what)
    else:
        network.register_buffer(last, what)


def find_function(operation: Operation) -> Callable[..., Any]:
    """What an operation calls: a function of the network and of the operation's arguments."""
    name = operation.target
    if operation.kind == "layer":
        return lambda network, *args, **kwargs: network.get_submodule(name)(*args, **kwargs)
    if operation.kind == "tensor":
        holder, _, last = name.rpartition(".")
        return lambda network: getattr(network.get_submodule(holder), last)
    if operation.kind == "method" and name in METHODS:
        return lambda _, self, *args, **kwargs: getattr(self, name)(*args, **kwargs)
    if operation.kind == "function" and name in FUNCTIONS:
        function = FUNCTIONS[name]
        if function is getattr and operation.args[1:] not in [[name] for name in ATTRIBUTES]:
            raise ValueError(f"an attribute must be one of {ATTRIBUTES}, but got {operation.args}")
        return lambda _, *args, **kwargs: function(*args, **kwargs)
    raise ValueError(f"an operation must be a known {operation.kind}, but got {name!r}")


def find_last_reads(graph: NetworkGraph) -> list[list[int]]:
    """By the operation, the numbers of the values that no later one reads."""
    last: dict[int, int] = {}
    for number, operation in enumerate(graph.operations, start=1):
        for read in (number, *find_reads([*operation.args, *operation.kwargs.values()])):
            last[read] = number
    reads = defaultdict(list)
    for value, number in last.items():
        if value not in (graph.logits, graph.features):
            reads[number].append(value)
    return [reads[number] for number in range(1, 1 + len(graph.operations))]


def read_argument(argument: JsonValue, values: Mapping[int, Any]) -> Any:
    """An argument with the values of earlier operations in place of their numbers."""
    if isinstance(argument, list):
        return [read_argument(part, values) for part in argument]
    if not isinstance(argument, dict):
        return argument
    ((kind, content),) = argument.items()
    if kind == NODE:
        assert isinstance(content, int)
        return values[content]
    assert isinstance(content, list)
    parts = [read_argument(part, values) for part in content]
    if kind == ELLIPSIS:
        return ...
    return slice(*parts) if kind == SLICE else tuple(parts)


def write_argument(argument: object, numbers: Mapping[fx.Node, int]) -> JsonValue:
    """The inverse of `read_argument`.

    Raises:
        ValueError: the argument is no number, text, slice or list of these.
    """
    if isinstance(argument, fx.Node):
        return {NODE: numbers[argument]}
    if argument is ...:
        return {ELLIPSIS: []}
    if argument is None or isinstance(argument, bool | int | str):
        return argument
    if isinstance(argument, float) and math.isfinite(argument):
        return argument
    if isinstance(argument, list | fx.immutable_collections.immutable_list):
        return [write_argument(part, numbers) for part in argument]
    if isinstance(argument, tuple):
        return {TUPLE: [write_argument(part, numbers) for part in argument]}
    if isinstance(argument, slice):
        parts = (argument.start, argument.stop, argument.step)
        return {SLICE: [write_argument(part, numbers) for part in parts]}
    raise ValueError(f"an argument must be a number, text or a list of these, but got {argument!r}")


def layer_options(layer: nn.Module) -> dict[str, JsonValue]:
    """The arguments of a layer's constructor that differ from its defaults."""
    found: dict[str, JsonValue] = {}
    for name, parameter in inspect.signature(type(layer)).parameters.items():
        if not hasattr(layer, name):
            continue
        value = getattr(layer, name)
        if name == "bias":
            value = value is not None
        if value != parameter.default:
            found[name] = write_argument(value, {})
    return found
