"""Fused LSQ: one pass over memory each way; `lsq` is the reference.

On a GPU the kernels of `lsq_triton`. Else, for large activations, the formulas of `lsq` compiled by
torch.compile, once for all shapes and bit-widths: tensors are passed as flat, bounds as numbers on
the device. Measured in docs/benchmarks.md against plain operations and PyTorch's own learnable fake
quantizer.
"""

import os
import warnings
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

MIN_ELEMENTS = 1 << 20
"""A network with only smaller tensors is trained in less time than loading a compiler takes."""

Lsq = Callable[[Tensor, Tensor, int, int], Tensor]


class Kernels(NamedTuple):
    """Compiled functions of flat tensors."""

    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, Tensor]]


def quantize(value: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return ((value / step).clamp(low, high).round() * step).to(value.dtype)


def gradients(
    gradient: Tensor, value: Tensor, step: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the value and of the step."""
    scaled = value / step
    clipped = scaled.clamp(low, high)
    inside = clipped == scaled
    slope = clipped.round() - torch.where(inside, scaled, 0)
    return torch.where(inside, gradient, 0), (slope * gradient).sum()


@cache
def kernels(device_type: str) -> Kernels | None:
    """The compiled functions, or None where there is no compiler to make them."""
    # Two small functions do not need a pool of compiler processes
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    made = Kernels(torch.compile(quantize, dynamic=True), torch.compile(gradients, dynamic=True))
    value, number = (torch.ones(n, device=device_type) for n in (8, 1))
    try:
        made.forward(value, number, number, number)
        made.backward(value, value, number, number, number)
    except Exception as error:  # the compiler of a machine may raise any error
        reason = str(error).strip().splitlines()[0]
        warnings.warn(f"fake quantization is not compiled, and slower: {reason}", stacklevel=2)
        return None
    return made


def fused_way(value: Tensor, step: Tensor) -> Lsq | None:
    """The fused function that takes these arguments and is faster than `lsq`, if there is one."""
    if value.is_cuda and (triton := triton_kernels(value.device)) and triton.suits(value, step):
        way: Lsq = triton.triton_lsq
        return way
    return fused_lsq if is_worthwhile(value, step) else None


@cache
def triton_kernels(device: torch.device) -> ModuleType | None:
    """The module `lsq_triton`; None where there is no Triton, or it does not work on the GPU."""
    try:
        from trainables.quantization.quantizers import lsq_triton
    except ImportError:
        return None
    return lsq_triton if lsq_triton.is_available(device) else None


def is_worthwhile(value: Tensor, step: Tensor) -> bool:
    """Whether `fused_lsq` takes these arguments and is the faster way."""
    return (
        step.numel() == 1
        and value.numel() >= MIN_ELEMENTS
        and is_dense(value)
        # Calibration and evaluation have larger batches, but are no reason to load a compiler
        and (torch.is_grad_enabled() or kernels.cache_info().currsize > 0)
        and kernels(value.device.type) is not None
    )


def is_dense(value: Tensor) -> bool:
    """Whether the values fill their memory, those of each index of the first dimension together."""
    return value.is_contiguous() or (
        value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last)
    )


def arranged_as(value: Tensor, gradient: Tensor) -> Tensor:
    """A gradient in the order of memory of the value; a copy where it has another."""
    if gradient.stride() == value.stride():
        return gradient
    return torch.empty_like(value).copy_(gradient)


def fused_lsq(value: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """The same as `lsq`, for one step and a dense value of 4 dimensions."""
    result: Tensor = _Fused.apply(value, step, low, high)
    return result


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        bounds = [step.new_full((1,), bound) for bound in (low, high)]
        ctx.save_for_backward(value, step, *bounds)
        compiled = kernels(value.device.type)
        assert compiled is not None
        result = compiled.forward(flat(value.detach()), step.detach(), *bounds)
        return result.as_strided(value.shape, value.stride())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, step, *bounds = ctx.saved_tensors
        compiled = kernels(value.device.type)
        assert compiled is not None
        of_value, of_step = compiled.backward(
            flat(arranged_as(value, gradient)), flat(value.detach()), step.detach(), *bounds
        )
        return (
            of_value.as_strided(value.shape, value.stride()),
            of_step.view_as(step),
            None,
            None,
        )


def flat(value: Tensor) -> Tensor:
    """A flat view of a dense tensor, in the order of its memory."""
    return value.as_strided((value.numel(),), (1,))
