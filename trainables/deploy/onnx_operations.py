"""How each operation of a traced network, other than a layer, is written as ONNX nodes.

A function of this module takes the graph and the arguments of the PyTorch operation, in PyTorch's
order and under PyTorch's names, where tensors are signals and sizes are lengths. It raises
NotImplementedError for arguments that it does not know.
"""

import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from trainables.data.augmentation import resize
from trainables.deploy.onnx_graph import Bounds, Graph, Signal, as_array
from trainables.deploy.onnx_sizes import Length, TensorLength, compute_length

Numbers = int | Sequence[int]
END = int(np.iinfo(np.int64).max)
"""The end of a slice without one."""
RESIZE_MODES: Mapping[tuple[str, bool], Mapping[str, str]] = {
    ("nearest", False): {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    },
    ("nearest-exact", False): {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
    ("bilinear", False): {"mode": "linear"},
    ("bilinear", True): {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ("bicubic", False): {"mode": "cubic"},
    ("bicubic", True): {"mode": "cubic", "coordinate_transformation_mode": "align_corners"},
}
"""ONNX's attributes by PyTorch's mode and whether corners are aligned."""


def arithmetic(name: str, graph: Graph, *operands: Any) -> Any:
    """Arithmetic on tensors and numbers, or on sizes."""
    if any(isinstance(operand, Signal) for operand in operands):
        return graph.compute(name, *operands)
    return compute_length(name, *operands)


def elementwise(name: str, graph: Graph, inputs: Signal, inplace: bool = False) -> Signal:
    """A function of each value that is one operator in ONNX."""
    return graph.compute(name, inputs)


def hardsigmoid(graph: Graph, inputs: Signal, inplace: bool = False) -> Signal:
    return graph.compute("HardSigmoid", inputs, alpha=1 / 6, beta=0.5)


def silu(graph: Graph, inputs: Signal, inplace: bool = False) -> Signal:
    return graph.compute("Mul", inputs, graph.compute("Sigmoid", inputs))


def leaky_relu(
    graph: Graph, inputs: Signal, negative_slope: float = 0.01, inplace: bool = False
) -> Signal:
    return graph.compute("LeakyRelu", inputs, alpha=negative_slope)


def relu(inputs: Signal, inplace: bool = False) -> Bounds:
    return 0.0, math.inf


def relu6(inputs: Signal, inplace: bool = False) -> Bounds:
    return 0.0, 6.0


def hardtanh(
    inputs: Signal, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Bounds:
    return min_val, max_val


def clamp(inputs: Signal, min: float | None = None, max: float | None = None) -> Bounds:
    low, high = -math.inf if min is None else min, math.inf if max is None else max
    if not isinstance(low, float | int) or not isinstance(high, float | int):
        raise NotImplementedError
    return low, high


def batch_norm(
    graph: Graph,
    inputs: Signal,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Signal:
    """Batch normalisation that could not be folded into a layer."""
    signals = [weight, bias, running_mean, running_var]
    if training or not all(isinstance(signal, Signal) for signal in signals):
        raise NotImplementedError
    return graph.compute("BatchNormalization", inputs, *signals, epsilon=eps)


def batch_norm_module(
    graph: Graph,
    inputs: Signal,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> Signal:
    if running_mean is None or running_var is None:
        raise NotImplementedError
    weight = torch.ones_like(running_mean) if weight is None else weight
    bias = torch.zeros_like(running_mean) if bias is None else bias
    tensors = [weight, bias, running_mean, running_var]
    parts = [graph.constant(as_array(tensor)) for tensor in tensors]
    return graph.compute("BatchNormalization", inputs, *parts, epsilon=eps)


def group_norm(
    graph: Graph,
    inputs: Signal,
    num_groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> Signal:
    if weight is None or bias is None:
        raise NotImplementedError
    parts = [graph.constant(as_array(tensor)) for tensor in (weight, bias)]
    return graph.compute("GroupNormalization", inputs, *parts, num_groups=num_groups, epsilon=eps)


def cat(graph: Graph, tensors: Sequence[Signal], dim: int = 0) -> Signal:
    return graph.map("Concat", tensors, axis=dim)


def chunk(graph: Graph, inputs: Signal, chunks: int, dim: int = 0) -> list[Signal]:
    return graph.split(inputs, chunks, dim)


def pixel_shuffle(graph: Graph, inputs: Signal, upscale_factor: int) -> Signal:
    return graph.map("DepthToSpace", [inputs], blocksize=upscale_factor, mode="CRD")


def max_pool(
    graph: Graph,
    inputs: Signal,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Signal:
    if return_indices:
        raise NotImplementedError
    shape = pool_shape(kernel_size, stride, padding, ceil_mode)
    if pair(dilation) != [1, 1]:
        shape["dilations"] = pair(dilation)
    return graph.map("MaxPool", [inputs], **shape)


def avg_pool(
    graph: Graph,
    inputs: Signal,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Signal:
    if divisor_override is not None:
        raise NotImplementedError
    shape = pool_shape(kernel_size, stride, padding, ceil_mode)
    if "pads" in shape:
        shape["count_include_pad"] = int(count_include_pad)
    return graph.compute("AveragePool", inputs, **shape)


def pool_shape(
    kernel_size: Numbers, stride: Numbers | None, padding: Numbers, ceil_mode: bool
) -> dict[str, Any]:
    """ONNX's attributes of a pooling operation."""
    shape: dict[str, Any] = {
        "kernel_shape": pair(kernel_size),
        "strides": pair(stride or kernel_size),
    }
    if any(pair(padding)):
        shape["pads"] = 2 * pair(padding)
    if ceil_mode:
        shape["ceil_mode"] = 1
    return shape


def global_pool(graph: Graph, inputs: Signal, output_size: Numbers) -> Signal:
    """Average pooling to one value per channel."""
    if pair(output_size) != [1, 1]:
        raise NotImplementedError
    return graph.compute("GlobalAveragePool", inputs)


def mean(graph: Graph, inputs: Signal, dim: Numbers, keepdim: bool = False) -> Signal:
    axes = [dim] if isinstance(dim, int) else list(dim)
    if sorted(axis % 4 for axis in axes) != [2, 3]:
        raise NotImplementedError
    pooled = graph.compute("GlobalAveragePool", inputs)
    return pooled if keepdim else graph.map("Flatten", [pooled])


def interpolate(
    graph: Graph,
    inputs: Signal,
    size: Length | Sequence[Length] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Signal:
    """Resizing to a size or by a factor, in any mode of PyTorch for images but "area"."""
    kind = (mode, bool(align_corners))
    if antialias or kind not in RESIZE_MODES:
        raise NotImplementedError
    if scale_factor is None:
        target = ["", graph.resized_shape(inputs.value, *pair(size))]
    else:
        factors = pair(scale_factor)
        if recompute_scale_factor and not all(float(f).is_integer() for f in factors):
            raise NotImplementedError
        target = [graph.constant(np.array([1, 1, *factors], np.float32))]
    if mode.startswith("nearest"):
        return graph.map("Resize", [inputs], "", *target, **RESIZE_MODES[kind])
    return graph.compute("Resize", inputs, "", *target, **RESIZE_MODES[kind])


def resize_bilinear(graph: Graph, inputs: Signal, size: Sequence[Length]) -> Signal:
    return interpolate(graph, inputs, size, mode="bilinear")


def pad(
    graph: Graph,
    inputs: Signal,
    pad: Sequence[Length],
    mode: str = "constant",
    value: float | None = None,
) -> Signal:
    """Zero padding by numbers or by computed sizes; negative ones crop."""
    if mode != "constant" or value or len(pad) != 4:
        raise NotImplementedError
    left, right, top, bottom = pad
    if (left, top) == (0, 0) and not (isinstance(right, int) and isinstance(bottom, int)):
        missing = graph.lengths(bottom, right)
        none = graph.constant(np.zeros(6, np.int64))
        pads = graph.add("Concat", none, missing, axis=0)
    else:
        pads = graph.lengths(0, 0, top, left, 0, 0, bottom, right)
    return graph.pad(inputs, pads)


def zero_pad(graph: Graph, inputs: Signal, padding: tuple[int, ...], value: float = 0.0) -> Signal:
    return pad(graph, inputs, padding, value=value)


def getitem(graph: Graph, value: Any, index: Any) -> Any:
    """An element or slice of a shape, or a part of a tensor."""
    if not isinstance(value, Signal):
        return value[index]
    items = list(index) if isinstance(index, tuple) else [index]
    if None in items and all(item in (None, slice(None)) for item in items):
        axes = graph.constant(np.array([i for i, item in enumerate(items) if item is None]))
        return graph.map("Unsqueeze", [value], axes)
    first_axis = 0
    if items[0] is Ellipsis:
        del items[0]
        first_axis = -len(items)
    if not all(isinstance(item, slice) and item.step is None for item in items):
        raise NotImplementedError
    return crop(graph, value, dict(enumerate(items, first_axis)))


def crop(graph: Graph, inputs: Signal, parts: Mapping[int, slice]) -> Signal:
    """The parts of a tensor along axes, from and to lengths that may be computed or negative."""
    slices = {axis: part for axis, part in parts.items() if part != slice(None)}
    if not slices:
        return inputs
    starts = graph.lengths(*(part.start or 0 for part in slices.values()))
    ends = graph.lengths(*(END if part.stop is None else part.stop for part in slices.values()))
    return graph.map("Slice", [inputs], starts, ends, graph.constant(np.array([*slices])))


def flatten(graph: Graph, inputs: Signal, start_dim: int = 0, end_dim: int = -1) -> Signal:
    """Flattening to one vector for each image."""
    if (start_dim, end_dim) != (1, -1):
        raise NotImplementedError
    return graph.map("Flatten", [inputs])


def reshape(graph: Graph, inputs: Signal, *shape: Any) -> Signal:
    lengths = shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
    return graph.map("Reshape", [inputs], graph.lengths(*lengths))


def unsqueeze(graph: Graph, inputs: Signal, dim: int) -> Signal:
    return graph.map("Unsqueeze", [inputs], graph.constant(np.array([dim])))


def expand(graph: Graph, inputs: Signal, *shape: Any) -> Signal:
    lengths = shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
    kept = [1 if length == -1 else length for length in lengths]  # ONNX keeps what meets a 1
    return graph.map("Expand", [inputs], graph.lengths(*kept))


def expand_as(graph: Graph, inputs: Signal, other: Signal) -> Signal:
    return graph.map("Expand", [inputs], graph.add("Shape", other.value))


def repeat(graph: Graph, inputs: Signal, *sizes: Any) -> Signal:
    lengths = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], Sequence) else sizes
    return graph.map("Tile", [inputs], graph.lengths(*lengths))


def shape_attribute(graph: Graph, inputs: Signal, attribute: str) -> list[Length]:
    if attribute != "shape":
        raise NotImplementedError
    return [TensorLength(inputs.value, axis) for axis in range(4)]


def size(graph: Graph, inputs: Signal, dim: int | None = None) -> Length | list[Length]:
    """The shape (N,C,H,W) of a tensor, or one of its lengths."""
    lengths = shape_attribute(graph, inputs, "shape")
    return lengths if dim is None else lengths[dim]


def pair(value: Any) -> list[Any]:
    """The values for height and width of an argument that may be a single number."""
    return list(value) if isinstance(value, Sequence) else [value, value]


CLIPS: Mapping[object, Callable[..., Bounds]] = {
    **dict.fromkeys((nn.ReLU, F.relu, torch.relu, "relu", "relu_"), relu),
    **dict.fromkeys((nn.ReLU6, F.relu6), relu6),
    **dict.fromkeys((nn.Hardtanh, F.hardtanh), hardtanh),
    **dict.fromkeys((torch.clamp, "clamp", "clamp_"), clamp),
}
"""Operations that clip values, each with the function that gives the least and the greatest."""
HANDLERS: Mapping[object, Callable[..., Any]] = {
    **dict.fromkeys(
        (operator.add, operator.iadd, torch.add, "add", "add_"), partial(arithmetic, "Add")
    ),
    **dict.fromkeys(
        (operator.sub, operator.isub, torch.sub, "sub", "sub_"), partial(arithmetic, "Sub")
    ),
    **dict.fromkeys(
        (operator.mul, operator.imul, torch.mul, "mul", "mul_"), partial(arithmetic, "Mul")
    ),
    **dict.fromkeys(
        (operator.truediv, operator.itruediv, torch.div, "div", "div_"), partial(arithmetic, "Div")
    ),
    operator.floordiv: partial(arithmetic, "FloorDiv"),
    operator.mod: partial(arithmetic, "Mod"),
    operator.neg: partial(arithmetic, "Neg"),
    **dict.fromkeys((nn.Hardswish, F.hardswish), partial(elementwise, "HardSwish")),
    **dict.fromkeys(
        (nn.Sigmoid, F.sigmoid, torch.sigmoid, "sigmoid"), partial(elementwise, "Sigmoid")
    ),
    **dict.fromkeys((nn.Tanh, F.tanh, torch.tanh, "tanh"), partial(elementwise, "Tanh")),
    **dict.fromkeys((nn.Hardsigmoid, F.hardsigmoid), hardsigmoid),
    **dict.fromkeys((nn.SiLU, F.silu), silu),
    **dict.fromkeys((nn.LeakyReLU, F.leaky_relu), leaky_relu),
    F.batch_norm: batch_norm,
    nn.BatchNorm2d: batch_norm_module,
    nn.GroupNorm: group_norm,
    **dict.fromkeys((torch.cat, torch.concat), cat),
    **dict.fromkeys((torch.chunk, "chunk"), chunk),
    **dict.fromkeys((F.pixel_shuffle, nn.PixelShuffle), pixel_shuffle),
    **dict.fromkeys((F.max_pool2d, nn.MaxPool2d), max_pool),
    **dict.fromkeys((F.avg_pool2d, nn.AvgPool2d), avg_pool),
    **dict.fromkeys((F.adaptive_avg_pool2d, nn.AdaptiveAvgPool2d), global_pool),
    **dict.fromkeys((torch.mean, "mean"), mean),
    **dict.fromkeys((F.interpolate, nn.Upsample, nn.UpsamplingBilinear2d), interpolate),
    nn.UpsamplingNearest2d: interpolate,
    resize: resize_bilinear,
    F.pad: pad,
    **dict.fromkeys((nn.ZeroPad2d, nn.ConstantPad2d), zero_pad),
    operator.getitem: getitem,
    **dict.fromkeys((torch.flatten, nn.Flatten, "flatten"), flatten),
    **dict.fromkeys((torch.reshape, "reshape", "view"), reshape),
    **dict.fromkeys((torch.unsqueeze, "unsqueeze"), unsqueeze),
    "expand": expand,
    "expand_as": expand_as,
    "repeat": repeat,
    getattr: shape_attribute,
    "size": size,
}
RESIZE_OPTIONS = ("size", "scale_factor", "mode", "align_corners")
NORM_TENSORS = ("weight", "bias", "eps")
OPTIONS: Mapping[object, tuple[str, ...]] = {
    nn.Hardtanh: ("min_val", "max_val"),
    nn.LeakyReLU: ("negative_slope",),
    nn.BatchNorm2d: ("running_mean", "running_var", *NORM_TENSORS),
    nn.GroupNorm: ("num_groups", *NORM_TENSORS),
    nn.PixelShuffle: ("upscale_factor",),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool2d: tuple(inspect.signature(nn.AvgPool2d).parameters),
    nn.AdaptiveAvgPool2d: ("output_size",),
    **dict.fromkeys((nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d), RESIZE_OPTIONS),
    nn.ZeroPad2d: ("padding",),
    nn.ConstantPad2d: ("padding", "value"),
    nn.Flatten: ("start_dim", "end_dim"),
}
"""Attributes of modules that are passed to the handler as arguments."""
SHAPERS = frozenset((pad, expand_as))
"""Functions that compute nothing, although they may be written on floats."""
