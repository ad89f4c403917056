"""The shapes that common operations give, by formula.

PyTorch takes 0.05 to 0.3 ms for such an operation on the meta device, and a formula some
microseconds.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from trainables.quantization.layers import QuantizableLayer

Sizes = int | Sequence[int]
"""One number for height and width, or one for each."""


def layer_outputs(layer: QuantizableLayer, inputs: Tensor) -> Tensor:
    """What a layer gives for inputs (B,C,H,W), or (...,C) if it is linear."""
    if isinstance(layer, nn.Linear):
        return empty((*inputs.shape[:-1], layer.out_features), inputs)
    sizes = []
    for axis, size in enumerate(inputs.shape[-2:]):
        kernel, stride = layer.kernel_size[axis], layer.stride[axis]
        dilation, padding = layer.dilation[axis], layer.padding
        if isinstance(layer, nn.ConvTranspose2d):
            assert not isinstance(padding, str)
            missing = layer.output_padding[axis] - 2 * int(padding[axis])
            sizes.append((size - 1) * stride + dilation * (kernel - 1) + 1 + missing)
        elif padding == "same":
            sizes.append(size)
        else:
            margin = 0 if isinstance(padding, str) else int(padding[axis])
            sizes.append(count_positions(size, kernel, stride, margin, dilation))
    return empty((*inputs.shape[:-3], layer.out_channels, *sizes), inputs)


def count_positions(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """The positions that a window has along one side of a map."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def broadcast(terms: Sequence[Tensor]) -> Tensor:
    """What a sum or a product of tensors gives."""
    sizes = zip_longest(*(reversed(term.shape) for term in terms), fillvalue=1)
    return empty([max(axis) for axis in sizes][::-1], terms[0])


def concatenate(tensors: Sequence[Tensor], dim: int = 0, axis: int | None = None) -> Tensor:
    """What `torch.cat` gives."""
    place, shape = dim if axis is None else axis, list(tensors[0].shape)
    shape[place] = sum(tensor.shape[place] for tensor in tensors)
    return empty(shape, tensors[0])


def max_pool(
    inputs: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    """What `F.max_pool2d` gives for images (B,C,H,W); None for options that are not common."""
    if ceil_mode or return_indices:
        return None
    options = map(pair, (kernel_size, stride or kernel_size, padding, dilation))
    sizes = zip(inputs.shape[-2:], *options, strict=True)
    return empty((*inputs.shape[:-2], *(count_positions(*axis) for axis in sizes)), inputs)


def adaptive_pool(inputs: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """What `F.adaptive_avg_pool2d` gives for images (B,C,H,W)."""
    sizes = zip(pair(output_size), inputs.shape[-2:], strict=True)
    chosen = [before if after is None else after for after, before in sizes]
    return empty((*inputs.shape[:-2], *chosen), inputs)


def resize(
    inputs: Tensor,
    size: Sizes | None = None,
    scale_factor: float | Sequence[float] | None = None,
    *args: object,
    **kwargs: object,
) -> Tensor:
    """What a function that resizes images (B,C,H,W) gives."""
    if size is None:
        assert scale_factor is not None
        factors = zip(inputs.shape[-2:], pair(scale_factor), strict=True)
        size = [int(before * factor) for before, factor in factors]
    return empty((*inputs.shape[:-2], *pair(size)), inputs)


def pair(value: Any) -> Sequence[Any]:
    """Two values for one, or for a list of one."""
    values = value if isinstance(value, Sequence) else (value,)
    return (*values, *values) if len(values) == 1 else values


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """A tensor of a shape, and of another's type, on the meta device."""
    return torch.empty(shape, dtype=like.dtype, device="meta")


ARITHMETIC = frozenset(["add", "iadd", "sub", "isub", "mul", "imul", "div", "truediv", "itruediv"])
"""Operations on the values of several tensors, by `operation_name`."""
FORMULAS: Mapping[str, Callable[..., Tensor | None]] = {
    **dict.fromkeys(("resize", "interpolate", "upsample"), resize),
    **dict.fromkeys(("cat", "concat"), concatenate),
    "maxpool2d": max_pool,
    "adaptiveavgpool2d": adaptive_pool,
}
"""By `operation_name`, functions of an operation's arguments; None where the formula fails."""
