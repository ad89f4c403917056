"""The forward pass of a converted network as an ONNX graph, operation for operation."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any

import numpy as np
import onnx
import torch
from torch import fx, nn
from torch.nn import functional as F

from trainables.deploy.onnx_graph import Graph, OnnxForm, Signal, Value, is_exportable, same_grid
from trainables.quantization.convert import ConvertedLayer, StaticQuantizer
from trainables.quantization.graph import is_metadata, trace

LAYERS = (ConvertedLayer, nn.Conv2d, nn.ConvTranspose2d)
RELUS = (nn.ReLU, F.relu, torch.relu, "relu")
IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout2d)
SELECTIONS = (F.max_pool2d, nn.MaxPool2d, torch.cat)
"""Operations that only select and move values, so that outputs keep the grid of inputs."""


def to_onnx(network: nn.Module, form: OnnxForm, metadata: dict[str, str]) -> onnx.ModelProto:
    """A converted network as an ONNX model from `images` to `logits`, of any batch and size.

    The network has an attribute `num_classes`.

    Raises:
        ValueError: the network cannot be traced, or does something that the export does not know.
    """
    graph = Graph(form)
    logits = Translation(network, graph).run()
    return graph.finish(logits, network.num_classes, metadata)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Length:
    """The height (axis 2) or width (axis 3) of a tensor, and what is computed from it.

    `steps` are ONNX operators, each with its second operand where it has one.
    """

    tensor: Value
    axis: int
    steps: tuple[tuple[str, int | None], ...] = ()

    def __neg__(self) -> "Length":
        return replace(self, steps=(*self.steps, ("Neg", None)))

    def __mod__(self, divisor: int) -> "Length":
        return replace(self, steps=(*self.steps, ("Mod", divisor)))


class Translation:
    """Writes the operations of a traced network into an ONNX graph, one after the other.

    A tensor is quantized where it is computed if all its readers use one grid; otherwise each
    reader quantizes it.
    """

    def __init__(self, network: nn.Module, graph: Graph) -> None:
        self.network, self.graph = network, graph
        self.traced = trace(network, leaves=(ConvertedLayer,))
        self._remove_idle_nodes()
        self.grids = self._find_grids()
        self.values: dict[fx.Node, Any] = {}  # a Signal, or sizes, by the node that gives it
        self.sizes: dict[Value, Value] = {}  # vectors of height and width, by tensor

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

    def layer(self, node: fx.Node, inputs: Signal) -> Signal:
        """A convolution, and a ReLU that is its only reader."""
        module = self._module(node)
        if not is_exportable(module):
            raise NotImplementedError
        grid = module.grid if isinstance(module, ConvertedLayer) else None
        readers = list(node.users)
        relu = len(readers) == 1 and self._operation(readers[0]) in RELUS
        end = readers[0] if relu else node
        result = self.graph.layer(self._read(inputs, grid), module, relu, self.grids[end])
        self.values[end] = result
        return result

    def relu(self, node: fx.Node, inputs: Signal, inplace: bool = False) -> Signal:
        """A ReLU behind another operation than a layer."""
        return Signal(self.graph.add("Relu", inputs.value), None)

    def cat(self, node: fx.Node, tensors: Sequence[Signal], dim: int = 0) -> Signal:
        """A concatenation of tensors."""
        on_grid = [self._read(tensor, self.grids[node]) for tensor in tensors]
        return self.graph.map("Concat", *on_grid, axis=dim)

    def max_pool(
        self,
        node: fx.Node,
        inputs: Signal,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Signal:
        """Max pooling."""
        if pair(dilation) != [1, 1] or ceil_mode or return_indices:
            raise NotImplementedError
        shape = {"kernel_shape": pair(kernel_size), "strides": pair(stride or kernel_size)}
        if any(pair(padding)):
            shape["pads"] = 2 * pair(padding)
        return self.graph.map("MaxPool", self._read(inputs, self.grids[node]), **shape)

    def interpolate(
        self,
        node: fx.Node,
        inputs: Signal,
        size: object = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
        antialias: bool = False,
    ) -> Signal:
        """Bilinear resizing by a factor."""
        if scale_factor is None or mode != "bilinear" or align_corners or antialias:
            raise NotImplementedError
        scales = self.graph.constant(np.array([1, 1, *pair(scale_factor)], np.float32))
        return Signal(self.graph.add("Resize", inputs.value, "", scales, mode="linear"), None)

    def pad(
        self,
        node: fx.Node,
        inputs: Signal,
        pad: Sequence[int | Length],
        mode: str = "constant",
        value: float | None = None,
    ) -> Signal:
        """Zero padding at the right and at the bottom, by computed sizes."""
        if mode != "constant" or value or len(pad) != 4 or pad[0] != 0 or pad[2] != 0:
            raise NotImplementedError
        missing = self._size(pad[3], pad[1])
        none = self.graph.constant(np.zeros(6, np.int64))
        pads = self.graph.add("Concat", none, missing, axis=0)
        return Signal(self.graph.add("Pad", inputs.value, pads), None)

    def getitem(self, node: fx.Node, value: Any, index: Any) -> Any:
        """An element or slice of a shape, or the upper left part of a tensor."""
        if not isinstance(value, Signal):
            return value[index]
        match index:
            case (
                EllipsisType(),
                slice(start=None, stop=height, step=None),
                slice(start=None, stop=width, step=None),
            ):
                zeros = self.graph.constant(np.zeros(2, np.int64))
                axes = self.graph.constant(np.array([2, 3]))
                size = self._size(height, width)
                return Signal(self.graph.add("Slice", value.value, zeros, size, axes), None)
        raise NotImplementedError

    def shape(self, node: fx.Node, inputs: Signal, attribute: str) -> list[Length]:
        """The shape (N,C,H,W) of a tensor."""
        if attribute != "shape":
            raise NotImplementedError
        return [Length(inputs.value, axis) for axis in range(4)]

    def arithmetic(self, node: fx.Node, length: Any, *operands: Any) -> Length:
        """Arithmetic on sizes."""
        if not isinstance(length, Length) or not all(isinstance(n, int) for n in operands):
            raise NotImplementedError
        assert callable(node.target)
        result: Length = node.target(length, *operands)
        return result

    def _translate(self, node: fx.Node) -> Any:
        """Writes one operation; gives a Signal, or sizes."""
        if node.op == "placeholder":
            return self._read(Signal("images", None), self.grids[node])
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self.values[n])
        if node.op == "output":
            return args[0]
        operation = self._operation(node)
        if operation not in HANDLERS:
            raise self._unknown(node)
        options = {n: getattr(self._module(node), n) for n in OPTIONS.get(operation, ())}
        try:
            value = HANDLERS[operation](self, node, *args, **kwargs, **options)
        except NotImplementedError as error:
            raise self._unknown(node) from error
        return self._read(value, self.grids[node]) if isinstance(value, Signal) else value

    def _operation(self, node: fx.Node) -> object:
        """A function, the class of a module or the name of a method."""
        return type(self._module(node)) if node.op == "call_module" else node.target

    def _module(self, node: fx.Node) -> nn.Module:
        return self.network.get_submodule(str(node.target))

    def _remove_idle_nodes(self) -> None:
        """Removes operations without effect in evaluation mode, and those that nothing reads."""
        for node in reversed(self.traced.nodes):
            if self._operation(node) in IDENTITIES:
                node.replace_all_uses_with(node.all_input_nodes[0])
            if not node.users and node.op not in ("placeholder", "output"):
                self.traced.erase_node(node)

    def _find_grids(self) -> dict[fx.Node, StaticQuantizer | None]:
        """By node, the grid of all readers of its output; None where their grids differ."""
        grids: dict[fx.Node, StaticQuantizer | None] = {}

        def grid_of(reader: fx.Node) -> StaticQuantizer | None:
            if self._operation(reader) in SELECTIONS:
                return grids[reader]
            module = self._module(reader) if reader.op == "call_module" else None
            return module.grid if isinstance(module, ConvertedLayer) else None

        for node in reversed(self.traced.nodes):
            read_on = [grid_of(reader) for reader in node.users if not is_metadata(reader)]
            alike = bool(read_on) and all(same_grid(grid, read_on[0]) for grid in read_on)
            grids[node] = read_on[0] if alike else None
        return grids

    def _read(self, signal: Signal, grid: StaticQuantizer | None) -> Signal:
        """A tensor on the grid of its reader, quantized where it is not on that grid already."""
        return self.graph.quantize(signal.value, grid) if signal.grid is None else signal

    def _size(self, height: int | Length, width: int | Length) -> Value:
        """A vector of height and width, which are computed from one tensor's in the same way."""
        if not isinstance(height, Length) or height.axis != 2 or width != replace(height, axis=3):
            raise NotImplementedError
        if height.tensor not in self.sizes:
            self.sizes[height.tensor] = self.graph.add("Shape", height.tensor, start=2)
        value = self.sizes[height.tensor]
        for step, operand in height.steps:
            operands = [] if operand is None else [self.graph.constant(np.array(operand))]
            value = self.graph.add(step, value, *operands)
        return value

    def _unknown(self, node: fx.Node) -> ValueError:
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
        return ValueError(
            "a network must consist of operations that the ONNX export knows, but "
            f"{type(self.network).__name__} has {what}"
        )


def pair(value: float | Sequence[float]) -> list[Any]:
    """The values for height and width of an argument that may be a single number."""
    return list(value) if isinstance(value, Sequence) else [value, value]


HANDLERS: Mapping[object, Callable[..., Any]] = {
    **dict.fromkeys(LAYERS, Translation.layer),
    **dict.fromkeys(RELUS, Translation.relu),
    torch.cat: Translation.cat,
    F.max_pool2d: Translation.max_pool,
    nn.MaxPool2d: Translation.max_pool,
    F.interpolate: Translation.interpolate,
    nn.Upsample: Translation.interpolate,
    F.pad: Translation.pad,
    operator.getitem: Translation.getitem,
    getattr: Translation.shape,
    operator.neg: Translation.arithmetic,
    operator.mod: Translation.arithmetic,
}
OPTIONS: Mapping[object, tuple[str, ...]] = {
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.Upsample: ("size", "scale_factor", "mode", "align_corners"),
}
"""Attributes of modules that are passed to the handler as arguments."""
