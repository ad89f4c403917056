"""The data flow of a network, independent of the names of its layers.

Graphs come from symbolic tracing (torch.fx) rather than from torch.export: tracing keeps every
layer, a quantized one too, as a single operation under its name, leaves the image size open and
takes milliseconds. Exporting decomposes layers into operations on weights, fixes sizes that steer
the forward pass, needs an example image and takes seconds.
"""

import operator
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter, getitem
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn

from trainables.quantization.layers import (
    QUANTIZABLE,
    QuantizedAddition,
    QuantizedLayer,
    is_quantizable,
)
from trainables.quantization.selections import CALLS, is_selection, operation_name

LAYERS = (*QUANTIZABLE, QuantizedLayer)
"""Types of layers that are or can be quantized."""
IN_PLACE_ADDITIONS = (operator.iadd, "add_")
ADDITIONS = (operator.add, torch.add, "add", *IN_PLACE_ADDITIONS)
"""Functions and methods that add two tensors."""
UNPATCHED = {name: getattr(nn.Module, name) for name in ("__call__", "__getattr__")}
"""Methods of modules that torch.fx replaces while it traces."""
METADATA = ("shape", "ndim", "size", "dim", "device", "dtype")
"""Attributes and methods of a tensor that do not depend on its values."""


class Sized:
    """Of a proxy: the number of sizes that it stands for, which `*x.shape` asks for."""

    node: fx.Node

    def __len__(self) -> int:
        length = count_sizes(self.node)
        return super().__len__() if length is None else length  # type: ignore[misc]


class SizedAttribute(Sized, fx.proxy.Attribute):
    """An attribute of a proxy, such as its shape."""


class SizedProxy(Sized, fx.Proxy):
    """A value while a network is traced."""

    def __getattr__(self, k: str) -> SizedAttribute:
        return SizedAttribute(self, k)


class LayerTracer(fx.Tracer):
    """Records calls of the layers of torch.nn, and of `leaves`, as single operations."""

    def __init__(self, leaves: tuple[type[nn.Module], ...], examples: Sequence[Tensor]) -> None:
        super().__init__()
        self.leaves, self.examples = leaves, examples

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.leaves) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return SizedProxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """A condition on sizes alone, if it is the same for all example images."""
        if self.examples and depends_on_sizes_alone(obj.node):
            graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
            graph.graph_copy(obj.node.graph, copies)
            graph.output(copies[obj.node])
            with real_modules(), torch.no_grad():
                interpreter = fx.Interpreter(self.root, graph=graph)
                answers = {bool(interpreter.run(each)) for each in self.examples}
            if len(answers) == 1:
                return answers.pop()
        return bool(super().to_bool(obj))

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """The sizes in `*x.shape[2:]` and the like, where `x` is taken to be (B,C,H,W)."""
        length = count_sizes(obj.node)
        if length is None:
            return super().iter(obj)
        sizes: Any = obj
        return iter([sizes[index] for index in range(length)])


@contextmanager
def real_modules() -> Iterator[None]:
    """Lets modules run while a network is traced, when torch.fx records their calls instead."""
    patched = {name: getattr(nn.Module, name) for name in UNPATCHED}
    try:
        for name, original in UNPATCHED.items():
            setattr(nn.Module, name, original)
        yield
    finally:
        for name, patch in patched.items():
            setattr(nn.Module, name, patch)


def depends_on_sizes_alone(node: fx.Node) -> bool:
    """Whether a value follows from the sizes of tensors, not from their values."""
    if is_metadata(node):
        return True
    is_computed = node.op in ("call_function", "call_method")
    return is_computed and all(map(depends_on_sizes_alone, node.all_input_nodes))


def count_sizes(node: fx.Node) -> int | None:
    """How many sizes of a map (B,C,H,W) a node gives; None where it gives none."""
    part = node.args[1] if node.target is getitem else slice(None)
    source = node.all_input_nodes[0] if node.target is getitem else node
    is_shape = source.target is getattr and source.args[1] == "shape"
    is_size = source.op == "call_method" and source.target == "size" and len(source.args) == 1
    if not (is_shape or is_size) or not isinstance(part, slice):
        return None
    return len(range(4)[part])


def trace(
    model: nn.Module,
    leaves: tuple[type[nn.Module], ...] = (),
    method: str = "forward",
    examples: Sequence[Tensor] = (),
) -> fx.Graph:
    """The operations of a method of `model`, in their order, from images to logits.

    Each layer, and each module of `leaves`, is one operation. Branches that depend on the sizes of
    images are those that all of `examples` (B,3,H,W) take. While the network is traced,
    torch.fx patches nn.Module, so that no other thread may run a network.

    Raises:
        ValueError: the forward pass does something that depends on the values of tensors.
    """
    tracer = LayerTracer((*LAYERS, QuantizedAddition, nn.BatchNorm2d, *leaves), examples)
    tracer.traced_func_name = method
    try:
        return tracer.trace(model)
    except Exception as error:  # with placeholders, the network's code can raise any error
        raise ValueError(
            f"a network must be traceable by torch.fx, but {type(model).__name__} is not: "
            f"{failed_operation(error)}: {' '.join(str(error).split())}"
        ) from error


def failed_operation(error: Exception) -> str:
    """The line of a network's code that an error comes from."""
    folder = Path(torch.__file__).parent
    frames = traceback.extract_tb(error.__traceback__)
    others = (folder, Path(__file__))
    of_network = [
        frame
        for frame in frames[1:]
        if not any(Path(frame.filename).is_relative_to(other) for other in others)
    ]
    frame = (of_network or frames)[-1]
    return f"{frame.line!r} in {frame.name} ({Path(frame.filename).name}, line {frame.lineno})"


def find_foldable(model: nn.Module, graph: fx.Graph | None = None) -> list[tuple[str, str]]:
    """The names of convolutions, each with that of the BatchNorm that can be folded into it.

    `graph` is that of the model, which is traced where it is None.

    Every output of such a convolution is read by its BatchNorm and by nothing else, and the
    BatchNorm reads nothing else. Subclasses of both are left alone, for they may compute otherwise,
    and so is BatchNorm1d, whose channels are a linear layer's outputs for some shapes only.
    """
    calls = defaultdict(list)
    for node in (graph or trace(model)).nodes:
        if node.op == "call_module":
            calls[node.target].append(node)
    pairs = []
    for norm in [name for name in calls if is_fixed_norm(model.get_submodule(name))]:
        sources = {source.target for call in calls[norm] for source in call.all_input_nodes}
        for layer in sources & calls.keys():
            readers = [set(call.users) for call in calls[layer]]
            alone = all(len(nodes) == 1 for nodes in readers)
            if alone and set().union(*readers) == set(calls[norm]):
                pairs.append((layer, norm))
    return [(layer, norm) for layer, norm in pairs if is_foldable(model.get_submodule(layer))]


def is_fixed_norm(module: nn.Module) -> bool:
    """Whether it is a BatchNorm that uses running statistics in evaluation mode."""
    return type(module) is nn.BatchNorm2d and module.running_mean is not None


def is_foldable(module: nn.Module) -> bool:
    """Whether it is a convolution whose output channels are slices of its weight."""
    layer = module.layer if isinstance(module, QuantizedLayer) else module
    return type(layer) is nn.Conv2d or (type(layer) is nn.ConvTranspose2d and layer.groups == 1)


def find_first_and_last(model: nn.Module, graph: fx.Graph | None = None) -> set[str]:
    """The names of the layers without a layer before them, and of those without one after them.

    Between the input and a first layer, and between a last one and the output, lie only operations
    that are not layers, such as padding, activations and resizing. `graph` is that of the model,
    which is traced where it is None.
    """
    graph = graph or trace(model)
    return find_first(model, graph) | find_last(model, graph)


def find_first(model: nn.Module, graph: fx.Graph) -> set[str]:
    """The names of the layers without a layer before them (see `find_first_and_last`)."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    return nearest_layers(model, inputs, attrgetter("users"))


def find_last(model: nn.Module, graph: fx.Graph) -> set[str]:
    """The names of the layers without a layer after them (see `find_first_and_last`)."""
    outputs = [node for node in graph.nodes if node.op == "output"]
    return nearest_layers(model, outputs, attrgetter("all_input_nodes"))


def find_additions(model: nn.Module, graph: fx.Graph) -> list[fx.Node]:
    """The additions of two feature maps of which a layer reads the sum, or what is computed of it.

    Additions of numbers, sizes and parameters are none, nor is one in place that changes what
    another operation reads. The order is that of execution.
    """
    features: set[fx.Node] = set()
    read_by_layers: set[fx.Node] = set()
    for node in graph.nodes:
        if is_layer(model, node) or (not is_metadata(node) and features & {*node.all_input_nodes}):
            features.add(node)
    for node in reversed(graph.nodes):
        if any(is_layer(model, user) or user in read_by_layers for user in node.users):
            read_by_layers.add(node)
    return [
        node
        for node in graph.nodes
        if node.target in ADDITIONS
        and node in read_by_layers
        and not node.kwargs
        and len(node.args) == 2
        and all(operand in features for operand in node.args)
        and (node.target not in IN_PLACE_ADDITIONS or len(node.args[0].users) == 1)
    ]


def find_input_groups(
    model: nn.Module,
    graph: fx.Graph | None = None,
    additions: Mapping[fx.Node, str] = MappingProxyType({}),
) -> list[tuple[str, ...]]:
    """Names of layers that read the same tensor, for which they share one quantization grid.

    A layer also reads a tensor through concatenations, pooling and whatever else moves its values
    but does not change them. `graph` is that of the model, which is traced where it is None.
    `additions`, nodes of the graph with their names, read tensors as layers do, and their sums are
    on the same grid.
    """
    graph = graph or trace(model)
    names = [name for name, _ in model.named_modules()] + list(additions.values())
    order = {name: place for place, name in enumerate(names)}
    groups: list[set[str]] = []
    sizes: set[fx.Node] = set()
    for node in graph.nodes:
        sources = node.all_input_nodes
        if is_metadata(node) or (sources and sizes.issuperset(sources)):
            sizes.add(node)
            continue
        readers = grid_readers(model, node, additions)
        groups, joined = partition(groups, readers)
        groups.append(readers.union(*joined))
    shared = [tuple(sorted(group, key=order.__getitem__)) for group in groups if len(group) > 1]
    return sorted(shared, key=lambda group: order[group[0]])


def partition(groups: Iterable[set[str]], names: set[str]) -> tuple[list[set[str]], list[set[str]]]:
    """The groups without any of the names, and those with some of them."""
    found: tuple[list[set[str]], list[set[str]]] = ([], [])
    for group in groups:
        found[bool(group & names)].append(group)
    return found


def grid_readers(model: nn.Module, node: fx.Node, additions: Mapping[fx.Node, str]) -> set[str]:
    """The names of the layers and additions that need one grid for a tensor."""
    found, open_nodes = set[str](), [node]
    seen = {node}
    while open_nodes:
        for user in open_nodes.pop().users:
            if is_layer(model, user):
                found.add(str(user.target))
            elif user not in seen and (user in additions or moves_values(model, user)):
                seen.add(user)
                open_nodes.append(user)
    return found | {additions[each] for each in seen if each in additions}


def moves_values(model: nn.Module, node: fx.Node) -> bool:
    """Whether a node of the graph of a model is a selection."""
    module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    return node.op in CALLS and is_selection(node, operation_name(node, module), module)


def nearest_layers(
    model: nn.Module, ends: Iterable[fx.Node], neighbours: Callable[[fx.Node], Iterable[fx.Node]]
) -> set[str]:
    """The layers that are reached from some ends of the graph without passing through a layer."""
    found, seen, open_nodes = set(), set(ends), list(ends)
    while open_nodes:
        for node in neighbours(open_nodes.pop()):
            if is_layer(model, node):
                found.add(str(node.target))
            elif node not in seen and not is_metadata(node):
                seen.add(node)
                open_nodes.append(node)
    return found


def is_layer(model: nn.Module, node: fx.Node) -> bool:
    """Whether it calls a layer that is quantized, or can be."""
    if node.op != "call_module":
        return False
    module = model.get_submodule(str(node.target))
    return isinstance(module, QuantizedLayer) or is_quantizable(module)


def is_metadata(node: fx.Node) -> bool:
    """Whether an operation gives the shape or type of a tensor, not its values."""
    if node.op == "call_method":
        return node.target in METADATA
    return node.target is getattr and node.args[1] in METADATA


def replace_module(model: nn.Module, name: str, by: nn.Module) -> None:
    """Replaces a module by another under every name that it has in `model`."""
    old = model.get_submodule(name)
    names = [n for n, m in model.named_modules(remove_duplicate=False) if m is old]
    for each in names:
        model.set_submodule(each, by)
