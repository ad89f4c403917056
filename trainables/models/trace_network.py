"""Traces a network that this project has never seen, so that it can be a student.

What comes out is data: the operations, and the weights. The network's own code is not needed again.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from trainables.core.command_line import one_line
from trainables.data.augmentation import resize
from trainables.models.graph_network import (
    ATTRIBUTES,
    FUNCTION_NAMES,
    LAYERS,
    METHODS,
    GraphNetwork,
    layer_options,
    write_argument,
)
from trainables.models.network_graph import LayerSpec, NetworkGraph, Operation, TensorSpec
from trainables.models.plain_norms import with_plain_norms
from trainables.quantization.graph import find_last, is_layer, trace
from trainables.quantization.layers import is_quantizable
from trainables.quantization.selections import operation_name
from trainables.quantization.shapes import PRODUCTS, called_module

EXAMPLE_SIZES = ((128, 128), (96, 160))
"""Heights and widths, in pixels, for which a traced network must compute what the original does."""
TOLERANCE = 1e-3
"""Largest difference of logits, relative to the largest logit."""
HOLDER = "network"
"""The attribute that holds the traced network, here and in a `GraphNetwork`."""
TRAINING_ONLY = ("stochastic_depth", "dropout", "dropout2d", "feature_dropout")
"""Functions that do nothing in evaluation mode, by name."""


PROBABILITIES = ("softmax", "log_softmax", "logsoftmax", "softmax2d", "sigmoid")
"""Operations that turn logits into probabilities, by name."""


class RecordedNetwork(NamedTuple):
    """A network as data.

    Attributes:
        graph: the operations.
        weights: the state dict of a `GraphNetwork` of the graph, in float32.
        num_classes: of the logits.
        float_operations: names of the operations on weights that no quantizer reaches.
    """

    graph: NetworkGraph
    weights: Mapping[str, Tensor]
    num_classes: int
    float_operations: list[str]


class ImagesOnly(nn.Module):
    """A network that is called with images alone, so that other arguments have their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


@torch.no_grad()
def record_network(network: nn.Module, normalization: nn.Module, name: str) -> RecordedNetwork:
    """Traces a network that maps images (B,3,H,W) to logits (B,K,h,w), and checks the result.

    The logits are the output, its entry "out", or its first entry.

    Args:
        network: in float32, or of a type that is converted.
        normalization: maps images as all networks get them to those that the network knows.
        name: of the network, for errors.

    Raises:
        ValueError: the network does something that cannot be recorded; the operation is named.
    """
    given, network = network, ImagesOnly(with_plain_norms(unwrapped(network)).cpu().float().eval())
    try:
        graph = trace(network, examples=[example_image(size) for size in EXAMPLE_SIZES])
    except ValueError as error:
        reason = str(error).replace(ImagesOnly.__name__, type(given).__name__)
        raise ValueError(f"{name} cannot be compressed: {reason}") from error
    logits = select_logits(graph)
    by_size = [record_values(network, graph, size, name) for size in EXAMPLE_SIZES]
    values = by_size[0]
    if logits is None or not is_map(values[logits]):
        found = values.get(logits) if logits else None
        raise ValueError(
            f"{name} must give logits (B,K,h,w), as its output, the output's entry 'out' or its "
            f"first entry, but gives {describe(found)}"
        )
    num_classes = values[logits].shape[1]
    check_logits(network, logits, num_classes, name)
    while is_resizing(logits) and all(
        same_after_resizing(logits, values, size)
        for values, size in zip(by_size, EXAMPLE_SIZES, strict=True)
    ):
        logits = logits.all_input_nodes[0]
    remove_unused(network, graph, logits)
    features = find_features(network, graph, logits, values)
    recorded = record(network, graph, logits, features, num_classes, name)
    state = network.state_dict()
    for node in graph.find_nodes(op="get_attr"):  # constants are in no state dict
        tensor = find_tensor(network, str(node.target))
        state.setdefault(f"{HOLDER}.{name_of(node)}", tensor)
    built = GraphNetwork(recorded, normalization, num_classes).eval()
    for key in built.network.state_dict():
        if f"network.{key}" not in state:
            raise ValueError(
                f"{name} cannot be compressed, because {key} is computed from other tensors, as by "
                "a parametrization of weights: remove it"
            )
    weights = {key: state.get(key, tensor) for key, tensor in built.state_dict().items()}
    built.load_state_dict(weights)
    check_equality(network, built, normalization, name)
    modules = dict(network.named_modules())
    floats = [name_of(node) for node in graph.nodes if is_unquantizable(modules, node)]
    return RecordedNetwork(recorded, weights, num_classes, floats)


def name_of(node: fx.Node) -> str:
    """A layer's name in the user's network, or the name of another operation in the graph."""
    is_named = node.op in ("call_module", "get_attr")
    return str(node.target).removeprefix(f"{HOLDER}.") if is_named else str(node)


def select_logits(graph: fx.Graph) -> fx.Node | None:
    """The node of the logits, which becomes the only output of the graph."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    found = output.args[0]
    if isinstance(found, Mapping):
        found = found.get("out", next(iter(found.values()), None))
    while isinstance(found, list | tuple) and found:
        found = found[0]
    return found if isinstance(found, fx.Node) else None


def record_values(
    network: nn.Module, graph: fx.Graph, size: tuple[int, int], name: str
) -> dict[fx.Node, Any]:
    """What each operation gives for an example image of a height and a width in pixels."""
    interpreter = fx.Interpreter(network, garbage_collect_values=False, graph=graph)
    run(interpreter.run, example_image(size), name)
    return dict(interpreter.env)


def example_image(size: tuple[int, int]) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))


def unwrapped(network: nn.Module) -> nn.Module:
    return network.module if isinstance(network, nn.DataParallel) else network


def check_logits(network: nn.Module, logits: fx.Node, num_classes: int, name: str) -> None:
    """Raises ValueError where the output cannot be logits of two classes or more."""
    if num_classes < 2:
        raise ValueError(
            f"{name} must give logits of two classes or more, but gives {num_classes}: where it "
            "tells an object from the background, it needs an output for each of the two"
        )
    last = operation_name(logits, called_module(dict(network.named_modules()), logits))
    if last in PROBABILITIES:
        raise ValueError(
            f"{name} must give logits, but ends with {last}: leave it out, which changes no class"
        )


def run(network: Callable[[Tensor], Any], images_B3HW: Tensor, name: str) -> Any:
    """What a network gives; raises ValueError where it cannot run on these images."""
    try:
        return network(images_B3HW)
    except Exception as error:  # the network's code can raise any error
        size = " x ".join(map(str, images_B3HW.shape[-2:]))
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} must run on images of {size} pixels, but: {reason}") from error


def is_map(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def describe(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else "none"


def is_resizing(node: fx.Node) -> bool:
    """Whether it resizes to a given size; by a factor, images of odd sizes get other logits."""
    if node.op != "call_function" or node.target not in (functional.interpolate, resize):
        return False
    size = node.args[1] if len(node.args) > 1 else node.kwargs.get("size")
    return size is not None


def same_after_resizing(
    node: fx.Node, values: Mapping[fx.Node, Any], size: tuple[int, int]
) -> bool:
    """Whether the resizing of logits that every network gets here does the same as a node."""
    before, after = values[node.all_input_nodes[0]], values[node]
    return after.shape[-2:] == size and torch.equal(resize(before, size), after)


def remove_unused(network: nn.Module, graph: fx.Graph, logits: fx.Node) -> None:
    """Makes the logits the only output, and removes operations that nothing reads."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    output.args = (logits,)
    for node in reversed(list(graph.nodes)):
        is_read = node.users or node.op in ("placeholder", "output")
        if not is_read and not changes_its_input(network, node):
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target.__name__ in TRAINING_ONLY:
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)


def changes_its_input(network: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    is_assignment = name.startswith("i") and getattr(node.target, "__module__", "") == "_operator"
    return name.endswith("_") or is_assignment or bool(node.kwargs.get("inplace"))


def find_features(
    network: nn.Module, graph: fx.Graph, logits: fx.Node, values: Mapping[fx.Node, Any]
) -> fx.Node:
    """The last tensor of the coarsest resolution in front of the layer that gives the logits."""
    nodes = list(graph.nodes)[:-1]  # without the output
    last = find_last(network, graph)
    ends = [i for i, n in enumerate(nodes) if is_layer(network, n) and n.target in last]
    maps: list[fx.Node] = [
        node
        for node in nodes[1 : max(ends, default=len(nodes))]
        if is_map(values.get(node)) and min(values[node].shape[-2:]) > 1
    ]
    if not maps:
        return logits
    coarsest = min(values[node].shape[-1] for node in maps)
    return [node for node in maps if values[node].shape[-1] == coarsest][-1]


def record(
    network: nn.Module,
    graph: fx.Graph,
    logits: fx.Node,
    features: fx.Node,
    num_classes: int,
    name: str,
) -> NetworkGraph:
    """The graph as data.

    Raises:
        ValueError: an operation cannot be recorded; it is named.
    """
    layers: dict[str, LayerSpec] = {}
    tensors: dict[str, TensorSpec] = {}
    operations: list[Operation] = []
    numbers: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            numbers[node] = 0
            continue
        if node.op == "output":
            break
        try:
            kind, target = name_operation(network, node)
            operation = Operation(
                kind=kind,
                target=target,
                args=[write_argument(argument, numbers) for argument in node.args],
                kwargs={key: write_argument(value, numbers) for key, value in node.kwargs.items()},
            )
            if kind == "layer" and target not in layers:
                layer = network.get_submodule(str(node.target))
                layers[target] = LayerSpec(type=type(layer).__name__, options=layer_options(layer))
            elif kind == "tensor":
                tensor = find_tensor(network, str(node.target))
                is_parameter = isinstance(tensor, nn.Parameter)
                tensors[target] = TensorSpec(shape=tensor.shape, is_parameter=is_parameter)
        except ValueError as error:
            reason = one_line(error)
            raise ValueError(
                f"{name} cannot be compressed, because of its operation {name_of(node)}: {reason}"
            ) from error
        operations.append(operation)
        numbers[node] = len(operations)
    last = {str(target).removeprefix(f"{HOLDER}.") for target in find_last(network, graph)}
    return NetworkGraph(
        layers=layers,
        tensors=tensors,
        operations=operations,
        logits=numbers[logits],
        features=numbers[features],
        classifiers=[
            layer
            for layer in layers
            if layer in last and num_outputs(network, f"{HOLDER}.{layer}") == num_classes
        ],
    )


def name_operation(network: nn.Module, node: fx.Node) -> tuple[Any, str]:
    """The kind and the target of an operation.

    Raises:
        ValueError: it is none that a graph can hold.
    """
    target = node.target
    if node.op == "call_module":
        layer = network.get_submodule(str(target))
        if LAYERS.get(type(layer).__name__) is not type(layer):
            raise ValueError(f"a layer of type {type(layer).__name__} cannot be recorded")
        return "layer", name_of(node)
    if node.op == "get_attr":
        return "tensor", name_of(node)
    if node.op == "call_method":
        if target not in METHODS:
            raise ValueError(f"the method {target} of a tensor cannot be recorded")
        return "method", str(target)
    if target is getattr and node.args[1] not in ATTRIBUTES:
        raise ValueError(f"the attribute {node.args[1]} of a tensor cannot be recorded")
    if target not in FUNCTION_NAMES:
        function = f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"
        raise ValueError(f"the function {function} cannot be recorded")
    return "function", FUNCTION_NAMES[target]


def find_tensor(network: nn.Module, name: str) -> Tensor:
    """A parameter or a buffer."""
    holder, _, last = name.rpartition(".")
    found = getattr(network.get_submodule(holder), last)
    if not isinstance(found, Tensor):
        raise ValueError(f"its value is a {type(found).__name__} and no tensor")
    return found


def num_outputs(network: nn.Module, name: str) -> int | None:
    """The output channels of a layer."""
    layer = network.get_submodule(name)
    channels = getattr(layer, "out_channels", None) or getattr(layer, "out_features", None)
    return channels if isinstance(channels, int) else None


def check_equality(
    network: nn.Module, traced: GraphNetwork, normalization: nn.Module, name: str
) -> None:
    """Raises ValueError where the traced network gives other logits, at one of two sizes."""
    for height, width in EXAMPLE_SIZES:
        images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) - 0.5
        outputs = run(network, normalization(images), name)
        while not isinstance(outputs, Tensor):
            is_named = isinstance(outputs, Mapping)
            outputs = outputs.get("out", next(iter(outputs.values()))) if is_named else outputs[0]
        expected = resize(outputs, (height, width))
        found = run(traced, images, name)
        difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-9))
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{name} must compute the same after it was traced, but for images of {height} x "
                f"{width} pixels logits differ by {difference:.1%} of the largest"
            )


def is_unquantizable(modules: Mapping[str, nn.Module], node: fx.Node) -> bool:
    """Whether an operation multiplies by weights or by other tensors, and no quantizer sees it."""
    if (layer := called_module(modules, node)) is not None:
        has_weights = any(parameter.ndim > 1 for parameter in layer.parameters())
        return has_weights and not is_quantizable(layer)
    is_computed = node.op in ("call_function", "call_method")
    return is_computed and operation_name(node, called_module(modules, node)) in PRODUCTS
