"""LSQ on a GPU: one Triton kernel each way, also where each channel of weights has its own step.

A tensor of n steps is n rows of consecutive values in memory. Measured in docs/benchmarks.md.
"""

import warnings
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton import language as tl

from trainables.quantization.quantizers.lsq_kernels import arranged_as, is_dense

BLOCK = 4096
"""Values that a program of a kernel handles."""
TO_INTEGERS = tl.constexpr(1.5 * 2.0**23)
"""Added to a float32 and subtracted again it rounds half to even, as PyTorch: |x| < 2^22."""


@cache
def is_available(device: torch.device) -> bool:
    """Whether the kernels can be compiled and run on a GPU; says once where they cannot."""
    try:
        with torch.enable_grad():
            value = torch.ones(8, device=device, requires_grad=True)
            torch.autograd.grad(triton_lsq(value, torch.ones(1, device=device), -8, 7).sum(), value)
    except Exception as error:  # the compiler of a machine may raise any error
        reason = str(error).strip().splitlines()[:1]
        warnings.warn(f"Triton does not quantize on {device}: {' '.join(reason)}", stacklevel=2)
        return False
    return True


def suits(value: Tensor, step: Tensor) -> bool:
    """Whether `triton_lsq` takes these arguments: a dense value, a step for it or each channel.

    It computes in float32.
    """
    per_row = step.shape == (value.shape[0], *[1] * (value.dim() - 1)) if value.dim() else False
    fits = value.numel() > 0 and is_dense(value) and (step.numel() == 1 or per_row)
    return fits and value.dtype in (torch.float32, torch.bfloat16, torch.float16)


def triton_lsq(value: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """The same as `lsq`, for arguments that `suits` accepts, on the same device."""
    result: Tensor = _TritonLsq.apply(value, step, low, high)
    return result


class _TritonLsq(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, step: Tensor, low: int, high: int) -> Tensor:
        out, (rows, length) = torch.empty_like(value), layout(value, step)
        quantize[blocks(length), rows](value, out, step, length, float(low), float(high), BLOCK)
        ctx.save_for_backward(value, step)
        ctx.bounds = float(low), float(high)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, step = ctx.saved_tensors
        gradient = arranged_as(value, gradient)
        out, (rows, length) = torch.empty_like(value), layout(value, step)
        sums = step.new_empty((rows, blocks(length)))
        differentiate[blocks(length), rows](
            gradient, value, out, sums, step, length, *ctx.bounds, BLOCK
        )
        return out, sums.sum(1).view_as(step), None, None


def layout(value: Tensor, step: Tensor) -> tuple[int, int]:
    """The rows of a value, one for each step, and the length of each."""
    return step.numel(), value.numel() // step.numel()


def blocks(length: int) -> int:
    return -(-length // BLOCK)


@triton.jit  # type: ignore[untyped-decorator]
def quantize(
    value: Any, out: Any, step: Any, length: Any, low: Any, high: Any, BLOCK: tl.constexpr
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row, inside = tl.program_id(1).to(tl.int64), at < length
    at += row * length
    s = tl.load(step + row).to(tl.float32)
    scaled = tl.div_rn(tl.load(value + at, mask=inside, other=0.0).to(tl.float32), s)
    clipped = tl.clamp(scaled, low, high, propagate_nan=tl.PropagateNan.ALL)
    rounded = (clipped + TO_INTEGERS) - TO_INTEGERS
    tl.store(out + at, (rounded * s).to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def differentiate(
    gradient: Any,
    value: Any,
    out: Any,
    sums: Any,
    step: Any,
    length: Any,
    low: Any,
    high: Any,
    BLOCK: tl.constexpr,
) -> None:
    block, row = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    at += row * length
    g = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(step + row).to(tl.float32)
    scaled = tl.div_rn(tl.load(value + at, mask=inside, other=0.0).to(tl.float32), s)
    clipped = tl.clamp(scaled, low, high, propagate_nan=tl.PropagateNan.ALL)
    unclipped = clipped == scaled
    rounded = (clipped + TO_INTEGERS) - TO_INTEGERS
    slope = rounded - tl.where(unclipped, scaled, 0.0)
    tl.store(out + at, tl.where(unclipped, g, 0.0).to(out.dtype.element_ty), mask=inside)
    tl.store(sums + row * tl.num_programs(0) + block, tl.sum(slope * g, axis=0))
