"""The forward pass of a converted network as an ONNX graph, operation for operation."""

import inspect
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import onnx
from torch import fx, nn
from torch.nn import functional as F

from trainables.core.errors import ExportFailed, NotExportable
from trainables.deploy.onnx_graph import (
    Bounds,
    Graph,
    OnnxForm,
    Signal,
    Value,
    as_array,
    is_computed_on_integers,
    is_exportable,
)
from trainables.deploy.onnx_operations import CLIPS, HANDLERS, OPTIONS, SHAPERS
from trainables.quantization.convert import (
    ConvertedAddition,
    ConvertedLayer,
    convert,
    input_grid,
)
from trainables.quantization.graph import moves_values, trace
from trainables.quantization.layers import QUANTIZABLE
from trainables.quantization.output_grids import find_grids
from trainables.quantization.static_quantizer import StaticQuantizer

LAYERS = (ConvertedLayer, *QUANTIZABLE)
IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout2d, "contiguous")
DROPS: Mapping[str, Callable[..., object]] = {
    "dropout": lambda inputs, p=0.5, training=True, inplace=False: training,
    "dropout2d": lambda inputs, p=0.5, training=True, inplace=False: training,
    "stochastic_depth": lambda inputs, p, mode, training=True: training,
}
"""Functions without effect where they are not training, by name: importing torchvision takes long.
Each value gives the function's argument `training`."""


def to_onnx(
    network: nn.Module, num_classes: int, form: OnnxForm, metadata: dict[str, str]
) -> onnx.ModelProto:
    """A converted network as an ONNX model from `images` to `logits`, of any batch and size.

    Raises:
        NotExportable: the network has an operation that the export does not know.
        ValueError: the network cannot be traced.
    """
    graph = Graph(form)
    logits = Translation(network, graph).run()
    return graph.finish(logits, num_classes, metadata)


def serialize(
    network: nn.Module, num_classes: int, form: OnnxForm, metadata: dict[str, str]
) -> bytes:
    """The content of the file of a converted network (see `to_onnx`), which ONNX has checked.

    Raises:
        ExportFailed: ONNX's checker refuses the model.
        NotExportable: the network has an operation that the export does not know.
        ValueError: the network cannot be traced.
    """
    model = to_onnx(network, num_classes, form, metadata)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportFailed(f"the ONNX checker refuses the model: {error}") from error
    serialized: bytes = model.SerializeToString()
    return serialized


def find_float_operations(network: nn.Module) -> list[str]:
    """What a converted network computes on floats in the form `onnx-int8`, in the order of use.

    Layers and activations that are modules have their names in the network; functions have their
    names and numbers in the traced graph, such as "add_1". What only moves values is left out.

    Raises:
        NotExportable: the network has an operation that the export does not know.
        ValueError: the network cannot be traced.
    """
    translation = Translation(network, Graph("onnx-int8"))
    translation.run()
    return list(dict.fromkeys(translation.float_operations))  # a module may be called repeatedly


def find_export_error(network: nn.Module) -> str | None:
    """The reason for which a network that is not converted yet cannot be exported, if any."""
    try:
        find_float_operations(convert(network))
    except ValueError as error:
        return str(error)
    return None


class Translation:
    """Writes the operations of a traced network into an ONNX graph, one after the other.

    A tensor is quantized where it is computed if all its readers use one grid; otherwise each
    reader quantizes it.
    """

    def __init__(self, network: nn.Module, graph: Graph) -> None:
        self.network, self.graph = network, graph
        self.traced = trace(network, leaves=(ConvertedLayer, ConvertedAddition))
        self._remove_idle_nodes()
        self.grids = find_grids(self.traced, self._grid_of, self._keeps_grid)
        self.values: dict[fx.Node, Any] = {}  # a Signal, or sizes, by the node that gives it
        self.float_operations: list[str] = []

    def run(self) -> Value:
        """Writes all operations and gives the logits."""
        for node in self.traced.nodes:
            if node not in self.values:
                self.values[node] = self._translate(node)
        (output,) = self.traced.find_nodes(op="output")
        logits = self.values[output]
        if not isinstance(logits, Signal):
            raise self._unknown(output)
        return logits.value

    def _layer(self, node: fx.Node, inputs: Signal) -> Signal:
        """A layer, and an activation that clips and is its only reader."""
        module = self._module(node)
        if not is_exportable(module):
            raise NotImplementedError
        grid = input_grid(module)
        end, limits = self._clipped(node)
        output_grid = module.output_grid if isinstance(module, ConvertedLayer) else None
        readers_grid = output_grid or self.grids[end]
        result = self.graph.layer(self._read(inputs, grid), module, limits, readers_grid)
        self.values[end] = result
        if not is_computed_on_integers(module, result.grid):
            self.float_operations.append(str(node.target))
        return result

    def _addition(self, node: fx.Node, *operands: Signal) -> Signal:
        """An addition on a grid, and an activation that clips and is its only reader."""
        module = self._module(node)
        assert isinstance(module, ConvertedAddition)
        end, limits = self._clipped(node)
        read = [self._read(operand, module.grid) for operand in operands]
        result = self.graph.addition(read, limits, self.grids[end])
        self.values[end] = result
        if result.grid is None:
            self.float_operations.append(str(node.target))
        return result

    def _clipped(self, node: fx.Node) -> tuple[fx.Node, Bounds | None]:
        """The only reader of an operation and its limits if it clips; else the operation itself."""
        readers = list(node.users)
        limits = self._limits(readers[0]) if len(readers) == 1 else None
        return (node if limits is None else readers[0]), limits

    def _limits(self, node: fx.Node) -> Bounds | None:
        """The values that an operation clips to; None if it does something else."""
        find_limits = CLIPS.get(self._operation(node))
        if find_limits is None:
            return None
        try:
            return find_limits(*node.args, **node.kwargs, **self._options(node))
        except (NotImplementedError, TypeError):
            return None

    def _translate(self, node: fx.Node) -> Any:
        """Writes one operation; gives a Signal, or sizes."""
        if node.op == "placeholder":
            return self._read(Signal("images", None), self.grids[node])
        if node.op == "get_attr":
            tensor = attrgetter(str(node.target))(self.network)
            return Signal(self.graph.constant(as_array(tensor)), None)
        grid = self.grids[node]
        if self._keeps_grid(node):
            args, kwargs = self._arguments(node, lambda signal: self._read(signal, grid))
        else:
            args, kwargs = self._arguments(node, lambda signal: signal)
        if node.op == "output":
            return args[0]
        operation, limits = self._operation(node), self._limits(node)
        try:
            if operation in LAYERS:
                return self._layer(node, *args)
            if operation is ConvertedAddition:
                return self._addition(node, *args)
            if limits is not None:
                if args[0].grid is None:
                    self.float_operations.append(self._name(node))
                return self._read(self.graph.clip(args[0], limits), grid)
            if operation not in HANDLERS:
                raise NotImplementedError
            handler = HANDLERS[operation]
            try:
                inspect.signature(handler).bind(self.graph, *args, **kwargs)
            except TypeError as error:
                raise NotImplementedError from error
            value = handler(self.graph, *args, **kwargs)
        except NotImplementedError as error:
            raise self._unknown(node) from error
        if not isinstance(value, Signal):
            return value
        if not self._is_selection(node) and handler not in SHAPERS:
            self.float_operations.append(self._name(node))
        return self._read(value, grid)

    def _name(self, node: fx.Node) -> str:
        """The name of a module in the network, or that of a function in the traced graph."""
        return str(node.target) if node.op == "call_module" else node.name

    def _arguments(
        self, node: fx.Node, read: Callable[[Signal], Signal]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of an operation, with signals and lengths instead of nodes."""

        def value_of(argument: fx.Node) -> Any:
            value = self.values[argument]
            return read(value) if isinstance(value, Signal) else value

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), value_of)
        return args, {**kwargs, **self._options(node)}

    def _options(self, node: fx.Node) -> dict[str, Any]:
        """The arguments of an operation that are attributes of its module."""
        names = OPTIONS.get(self._operation(node), ())
        return {name: getattr(self._module(node), name) for name in names}

    def _is_selection(self, node: fx.Node) -> bool:
        """Whether an operation is written on integers; paddings by computed lengths are not."""
        has_computed_pads = node.target is F.pad and len(node.all_input_nodes) > 1
        return moves_values(self.network, node) and not has_computed_pads

    def _keeps_grid(self, node: fx.Node) -> bool:
        return self._is_selection(node) or self._limits(node) is not None

    def _operation(self, node: fx.Node) -> object:
        """A function, the class of a module or the name of a method."""
        return type(self._module(node)) if node.op == "call_module" else node.target

    def _module(self, node: fx.Node) -> nn.Module:
        return self.network.get_submodule(str(node.target))

    def _remove_idle_nodes(self) -> None:
        """Removes operations without effect in evaluation mode, and those that nothing reads."""
        for node in reversed(self.traced.nodes):
            if self._is_identity(node):
                node.replace_all_uses_with(node.all_input_nodes[0])
            if not node.users and node.op not in ("placeholder", "output"):
                self.traced.erase_node(node)

    def _is_identity(self, node: fx.Node) -> bool:
        """Whether an operation has no effect in evaluation mode."""
        if self._operation(node) in IDENTITIES:
            return True
        name = str(getattr(node.target, "__name__", ""))
        return name in DROPS and DROPS[name](*node.args, **node.kwargs) is False

    def _grid_of(self, node: fx.Node) -> StaticQuantizer | None:
        """The grid on which an operation reads its inputs."""
        return input_grid(self._module(node) if node.op == "call_module" else None)

    def _read(self, signal: Signal, grid: StaticQuantizer | None) -> Signal:
        """A tensor on the grid of its reader, quantized where it is not on that grid already."""
        return self.graph.quantize(signal.value, grid) if signal.grid is None else signal

    def _unknown(self, node: fx.Node) -> NotExportable:
        """The error that names an operation and its layer."""
        if node.op == "call_module":
            module = self._module(node)
            layer = module.layer if isinstance(module, ConvertedLayer) else module
            what = f"{' '.join(str(layer).split())}, its layer {node.target}"
        else:
            before = node
            while before.op != "call_module" and before.all_input_nodes:
                before = before.all_input_nodes[0]
            options = [*map(str, node.args), *(f"{k}={v}" for k, v in node.kwargs.items())]
            function = getattr(node.target, "__name__", node.target)
            what = f"{function}({', '.join(options)}) behind its layer {before.target}"
        return NotExportable(
            "a network must consist of operations that the ONNX export knows, but "
            f"{type(self.network).__name__} has {what}"
        )
