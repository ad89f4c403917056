"""ONNX graphs of converted layers, node by node.

Two forms. `onnx` is small: weights are stored in the narrowest of INT2, INT4 and INT8 that holds
their integers. `onnx-int8` is fast: weights are widened to INT8, so that ONNX Runtime runs a
convolution between quantized tensors on integers (QLinearConv). Without quantized layers both are
the same plain float graph.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeGuard

import numpy as np
import onnx
import torch
from ml_dtypes import int2, int4
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from trainables.deploy.onnx_sizes import (
    ComputedLength,
    Length,
    TensorLength,
    is_same_for_width,
)
from trainables.quantization.bits import bounds
from trainables.quantization.convert import LARGEST_BIAS, ConvertedLayer
from trainables.quantization.integer_bias import find_factors, stored_offset
from trainables.quantization.layers import (
    QUANTIZABLE,
    QuantizableLayer,
    is_overlapping,
    is_pixel_shuffle,
)
from trainables.quantization.output_grids import same_grid
from trainables.quantization.static_quantizer import StaticQuantizer

OnnxForm = Literal["onnx", "onnx-int8"]
Value = str
"""The name of a tensor in the graph."""
Array = NDArray[Any]
Bounds = tuple[float, float]
"""The least and the greatest value that an activation such as ReLU6 lets through."""


class Signal(NamedTuple):
    """A tensor in the graph: integers on a grid, or floats where there is none."""

    value: Value
    grid: StaticQuantizer | None


class Graph:
    """An ONNX graph to which operations are appended one by one.

    Between layers, quantized tensors stay integers: pooling, concatenation and rearrangement give
    the same result on integers as on the numbers that these represent.
    """

    def __init__(self, form: OnnxForm) -> None:
        self.form = form
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shapes: dict[tuple[Value, int | None], Value] = {}  # by tensor and axis, None for both
        self.opset = 21

    def add(self, operator: str, *inputs: Value, **attributes: Any) -> Value:
        """Appends a node of one output."""
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, value: Array) -> Value:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def quantize(
        self,
        value: Value,
        grid: StaticQuantizer | None,
        limits: Bounds = (-np.inf, np.inf),
        in_steps: bool = False,
    ) -> Signal:
        """`value`, which may be in steps of the grid, on a grid, and clipped to `limits`.

        Integers are clipped instead of floats where these are not the limits of 8 bits. The result
        is the same, since rounding is monotone, and ONNX Runtime still computes a convolution
        before it on integers.
        """
        if grid is None:
            return Signal(value, None)
        step = self.constant(np.array(1, np.float32)) if in_steps else self._step(grid)
        codes = Signal(self.add("QuantizeLinear", value, step, self._zero(grid)), grid)
        return self._clip_integers(codes, grid, limits)

    def _clip_integers(self, codes: Signal, grid: StaticQuantizer, limits: Bounds) -> Signal:
        ends = code_limits(grid, limits)
        if ends == bounds(8, stored_offset(grid.bits, grid.zero_point)):
            return codes
        return Signal(self.add("Clip", codes.value, *(self._code(grid, e) for e in ends)), grid)

    def map(
        self, operator: str, signals: Sequence[Signal], *others: Value, **attributes: Any
    ) -> Signal:
        """An operation that only selects and moves values, on integers if all are on one grid."""
        grid = signals[0].grid
        if not all(same_grid(signal.grid, grid) for signal in signals):
            return self.compute(operator, *signals, *others, **attributes)
        values = [signal.value for signal in signals]
        return Signal(self.add(operator, *values, *others, **attributes), grid)

    def compute(
        self, operator: str, *operands: Signal | Value | float, **attributes: Any
    ) -> Signal:
        """An operation on floats, of tensors and numbers."""
        return Signal(self.add(operator, *map(self._operand, operands), **attributes), None)

    def _operand(self, operand: Signal | Value | float) -> Value:
        match operand:
            case Signal():
                return self._dequantize(operand)
            case str():
                return operand
            case int() | float():
                return self.constant(np.array(operand, np.float32))
        raise NotImplementedError

    def clip(self, signal: Signal, limits: Bounds) -> Signal:
        """Values that are clipped to bounds, integers on their grid."""
        if signal.grid is not None:
            return self._clip_integers(signal, signal.grid, limits)
        if limits == (0, np.inf):
            return self.compute("Relu", signal)
        ends = ["" if np.isinf(limit) else self._operand(limit) for limit in limits]
        return self.compute("Clip", signal, *ends)

    def split(self, signal: Signal, chunks: int, axis: int) -> list[Signal]:
        """Parts of equal length along an axis, but for the last one, which may be shorter."""
        names = [f"v{len(self.nodes)}_{index}" for index in range(chunks)]
        node = helper.make_node("Split", [signal.value], names, axis=axis, num_outputs=chunks)
        self.nodes.append(node)
        return [Signal(name, signal.grid) for name in names]

    def pad(self, signal: Signal, pads: Value) -> Signal:
        """Padding with zeros."""
        if signal.grid is None:
            return Signal(self.add("Pad", signal.value, pads), None)
        return self.map("Pad", [signal], pads, self._zero(signal.grid))

    def resized_shape(self, value: Value, height: Length, width: Length) -> Value:
        """The shape of a tensor with another height and width."""
        kept, size = self.add("Shape", value, end=2), self.lengths(height, width)
        return self.add("Concat", kept, size, axis=0)

    def lengths(self, *lengths: Length) -> Value:
        """A vector of lengths, or of a height and a width, which is computed as one if it can be.

        Raises:
            NotImplementedError: for other things than lengths.
        """
        if not all(isinstance(length, Length) for length in lengths):
            raise NotImplementedError
        if all(isinstance(length, int) for length in lengths):
            return self.constant(np.array(lengths, np.int64))
        if len(lengths) == 2 and is_same_for_width(*lengths):
            return self._length(lengths[0], is_size=True)
        parts = [
            self.constant(np.array([length]))
            if isinstance(length, int)
            else self._length(length, is_size=False)
            for length in lengths
        ]
        return self.add("Concat", *parts, axis=0)

    def _length(self, length: Length, is_size: bool) -> Value:
        """A vector of one length, or of height and width where this is a height."""
        match length:
            case int():
                return self.constant(np.array(length))
            case ComputedLength(operator, operands):
                return self.add(operator, *(self._length(part, is_size) for part in operands))
            case TensorLength(tensor, axis):
                key = (tensor, None if is_size else axis)
                if key not in self.shapes:
                    end = {} if is_size else {"end": axis + 1}
                    self.shapes[key] = self.add("Shape", tensor, start=axis, **end)
                return self.shapes[key]

    def layer(
        self,
        inputs: Signal,
        module: nn.Module,
        limits: Bounds | None,
        grid: StaticQuantizer | None,
    ) -> Signal:
        """A layer, clipped to `limits` where given, whose output is on the grid of its readers."""
        layer = module.layer if isinstance(module, ConvertedLayer) else module
        assert isinstance(layer, QUANTIZABLE)
        in_steps = False
        if self.form == "onnx" and inputs.grid and has_codes(module):
            value = self._convolve_integers(inputs, inputs.grid, layer, module)
            in_steps = module.output_grid is not None
        else:
            weight, steps = self._weight(layer, module)
            bias = self._bias(layer, steps, inputs.grid)
            value = self._convolve(self._dequantize(inputs), layer, weight, bias)
        result = self._clip_and_quantize(value, limits, grid, in_steps)
        if is_pixel_shuffle(layer):
            return self.map("DepthToSpace", [result], blocksize=layer.stride[0], mode="CRD")
        return result

    def addition(
        self, operands: Sequence[Signal], limits: Bounds | None, grid: StaticQuantizer | None
    ) -> Signal:
        """A sum, clipped to `limits` where given, on the grid of its readers.

        ONNX Runtime computes it on integers (QLinearAdd) if there is one.
        """
        return self._clip_and_quantize(self.compute("Add", *operands).value, limits, grid)

    def _clip_and_quantize(
        self,
        value: Value,
        limits: Bounds | None,
        grid: StaticQuantizer | None,
        in_steps: bool = False,
    ) -> Signal:
        if limits is not None and grid is None:
            return self.clip(Signal(value, None), limits)
        return self.quantize(value, grid, limits or (-np.inf, np.inf), in_steps)

    def _step(self, grid: StaticQuantizer) -> Value:
        return self.constant(as_array(grid.step).reshape(()))

    def _zero(self, grid: StaticQuantizer) -> Value:
        return self._code(grid, 0)

    def _code(self, grid: StaticQuantizer, code: int) -> Value:
        """An integer of a grid, as it is stored."""
        offset = self._offset(grid)
        stored = np.uint8 if offset == stored_offset(grid.bits, grid.zero_point) else np.int8
        return self.constant(np.array(code + offset, stored))

    def _offset(self, grid: StaticQuantizer) -> int:
        """What is added to the integers of a grid where they are stored.

        The fast form has no INT8: ONNX Runtime computes a convolution on integers only if its
        inputs and its outputs are of one type, and grids without negative integers are unsigned.
        """
        offset = stored_offset(grid.bits, grid.zero_point)
        return 0 if self.form == "onnx" and offset == 128 else offset

    def _dequantize(self, signal: Signal) -> Value:
        if signal.grid is None:
            return signal.value
        if self.form == "onnx-int8":
            step, zero = self._step(signal.grid), self._zero(signal.grid)
            return self.add("DequantizeLinear", signal.value, step, zero)
        return self.add("Mul", self._integers(signal.value, signal.grid), self._step(signal.grid))

    def _integers(self, value: Value, grid: StaticQuantizer) -> Value:
        """The integers of a grid, as floats."""
        # ONNX Runtime would fuse a DequantizeLinear with weights that its kernels do not support
        floats = self.add("Cast", value, to=TensorProto.FLOAT)
        if offset := self._offset(grid):
            return self.add("Sub", floats, self.constant(np.array(offset, np.float32)))
        return floats

    def _convolve_integers(
        self,
        inputs: Signal,
        grid: StaticQuantizer,
        layer: QuantizableLayer,
        module: ConvertedLayer,
    ) -> Value:
        """A layer of integers, which are summed as floats, as `ConvertedLayer` does.

        Where its outputs have a grid, they are in steps of it.
        """
        codes, steps = integers_of(layer, module)
        operands = [self._stored(codes, module), np.array(1, np.float32)]
        # Not a Cast, which ONNX Runtime would compute beforehand and merge with the steps
        weight = self.add("DequantizeLinear", *map(self.constant, operands))
        value = self._convolve(self._integers(inputs.value, grid), layer, weight, [])
        scale = torch.from_numpy(steps * as_array(grid.step))
        bias = None if layer.bias is None else torch.from_numpy(bias_of(layer))
        for operator, operand in module.operations(scale, bias):
            by_channel = as_array(operand).reshape(-1, *[1] * (codes.ndim - 2))
            value = self.add(operator, value, self.constant(by_channel))
        return value

    def _stored(self, codes: Array, module: ConvertedLayer) -> Array:
        """Codes in the narrowest type of the form `onnx`."""
        if module.code_bits == 2:
            self.opset = max(self.opset, 25)
            return codes.astype(int2)
        return codes.astype(int4) if module.code_bits <= 4 else codes

    def _weight(self, layer: QuantizableLayer, module: nn.Module) -> tuple[Value, Array | None]:
        """A layer's weight, and the steps (outputs,) that its integers count in."""
        if not has_codes(module):
            return self.constant(as_operand(layer, layer.weight)), None
        codes, steps = integers_of(layer, module)
        axis = channel_axis(layer)
        if self.form == "onnx":
            codes = self._stored(codes, module)
        else:
            shape = [-1 if dimension == axis else 1 for dimension in range(codes.ndim)]
            factors = np.ones(len(steps), int)
            if layer.bias is not None and module.grid is not None:
                bias = bias_of(layer)
                if axis == 0:
                    codes, steps = without_dead_channels(codes, steps, module.grid, bias)
                by_channel = np.moveaxis(codes, axis, 0)
                factors = find_factors(by_channel, module.grid.bits, module.grid.zero_point)
            codes = codes * factors.astype(np.int8).reshape(shape)
            steps = steps / factors.astype(np.float32)
        parts = [codes, steps]
        if codes.dtype == np.int8:  # ONNX Runtime's precise mode needs a zero point per channel
            parts.append(np.zeros(len(steps), np.int8))
        return self.add("DequantizeLinear", *map(self.constant, parts), axis=axis), steps

    def _bias(
        self,
        layer: QuantizableLayer,
        steps: Array | None,
        grid: StaticQuantizer | None,
    ) -> list[Value]:
        """A bias, in INT32 and in the steps of the products where these are integers."""
        if layer.bias is None:
            return []
        bias = bias_of(layer)
        if self.form == "onnx" or steps is None or grid is None or is_overlapping(layer):
            return [self.constant(bias)]
        products = steps * as_array(grid.step)
        codes = np.rint(bias.astype(np.float64) / products).astype(np.int32)
        stored, scale = self.constant(codes), self.constant(products)
        return [self.add("DequantizeLinear", stored, scale, axis=0)]

    def _convolve(
        self,
        inputs: Value,
        layer: QuantizableLayer,
        weight: Value,
        bias: list[Value],
    ) -> Value:
        if isinstance(layer, nn.Linear):
            return self.add("Gemm", inputs, weight, *bias, transB=1)
        if is_pixel_shuffle(layer):
            return self.add("Conv", inputs, weight, *bias, kernel_shape=[1, 1])
        shape: dict[str, Any] = {
            "kernel_shape": layer.kernel_size,
            "strides": layer.stride,
            "pads": pads_of(layer),
            "dilations": layer.dilation,
            "group": layer.groups,
        }
        if isinstance(layer, nn.Conv2d):
            return self.add("Conv", inputs, weight, *bias, **shape)
        shape["output_padding"] = layer.output_padding
        return self.add("ConvTranspose", inputs, weight, *bias, **shape)

    def finish(self, output: Value, num_classes: int, metadata: dict[str, str]) -> onnx.ModelProto:
        """The model from `images` (N,3,H,W) to `logits` (N,K,H,W), both float32."""
        self.nodes.append(helper.make_node("Identity", [output], ["logits"]))
        graph = helper.make_graph(
            self.nodes,
            "paretoseg",
            [tensor_info("images", 3)],
            [tensor_info("logits", num_classes)],
            self.constants,
        )
        opset = helper.make_opsetid("", self.opset)
        ir_version = helper.find_min_ir_version_for([opset])
        model = helper.make_model(graph, opset_imports=[opset], ir_version=ir_version)
        helper.set_model_props(model, metadata)
        return model


def without_dead_channels(
    codes: Array, steps: Array, grid: StaticQuantizer, bias: Array
) -> tuple[Array, Array]:
    """Codes and steps whose biases fit into integers.

    Where normalisation multiplies a channel by nearly 0, the channel equals its bias: its codes
    become 0, and its step becomes one in which the bias can be counted.
    """
    least = np.abs(bias) / np.float32(LARGEST_BIAS) / as_array(grid.step)
    dead = np.abs(steps) < least
    shape = (-1, *[1] * (codes.ndim - 1))
    return np.where(dead.reshape(shape), 0, codes).astype(codes.dtype), np.where(dead, least, steps)


def tensor_info(name: str, channels: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", channels, "H", "W"])


def as_array(tensor: Tensor) -> Array:
    """A tensor's values, in row-major order."""
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def as_operand(layer: QuantizableLayer, weight: Tensor) -> Array:
    """The weight as the operator that `Graph.layer` writes for the layer needs it."""
    if is_pixel_shuffle(layer):
        return as_array(weight.flatten(1).T.reshape(-1, len(weight), 1, 1))
    return as_array(weight)


def channel_axis(layer: QuantizableLayer) -> int:
    """The axis of output channels of that operator's weight."""
    return 1 if is_overlapping(layer) else 0


def has_codes(module: nn.Module) -> TypeGuard[ConvertedLayer]:
    """Whether it is a layer whose weights are integers."""
    return isinstance(module, ConvertedLayer) and module.codes is not None


def integers_of(layer: QuantizableLayer, module: ConvertedLayer) -> tuple[Array, Array]:
    """The integers of that operator's weight, and the step of each of its output channels."""
    assert module.codes is not None
    assert module.step is not None
    codes, steps = as_operand(layer, module.codes), as_array(module.step)
    return codes, np.repeat(steps, codes.shape[channel_axis(layer)] // len(steps))


def bias_of(layer: QuantizableLayer) -> Array:
    """The bias of each output channel of that operator."""
    assert layer.bias is not None
    bias = as_array(layer.bias)
    if is_pixel_shuffle(layer):
        return np.repeat(bias, layer.kernel_size[0] * layer.kernel_size[1])
    return bias


def pads_of(layer: nn.Conv2d | nn.ConvTranspose2d) -> list[int]:
    """The padding of a convolution at the top, left, bottom and right."""
    if not isinstance(layer.padding, str):
        return [*layer.padding, *layer.padding]
    extents = zip(layer.dilation, layer.kernel_size, strict=True)
    totals = [d * (k - 1) if layer.padding == "same" else 0 for d, k in extents]
    return [*(total // 2 for total in totals), *(total - total // 2 for total in totals)]


def is_exportable(module: nn.Module) -> bool:
    """Whether it is a layer that `Graph.layer` can write."""
    layer = module.layer if isinstance(module, ConvertedLayer) else module
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return layer.padding_mode == "zeros"
    return isinstance(layer, nn.Linear)


def is_computed_on_integers(module: nn.Module, output: StaticQuantizer | None) -> bool:
    """Whether ONNX Runtime computes a layer of the fast form, with outputs on a grid, on integers.

    Its weights and its inputs must be integers, and the outputs of a convolution, too.
    """
    return (
        has_codes(module)
        and module.grid is not None
        and (output is not None or isinstance(module.layer, nn.Linear))
        and not is_overlapping(module.layer)
    )


def code_limits(grid: StaticQuantizer, limits: Bounds) -> tuple[int, int]:
    """The least and the greatest code of values between two limits."""
    codes = np.rint(np.array(limits, np.float32) / as_array(grid.step))
    low, high = np.clip(codes, *bounds(grid.bits, grid.zero_point))
    return int(low), int(high)
