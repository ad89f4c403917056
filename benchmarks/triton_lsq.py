# mypy: ignore-errors
"""LSQ's fake quantization of a dense tensor on one step, as two Triton kernels: a candidate."""

import torch
import triton
from torch import Tensor
from triton import language as tl

from trainables.quantization.quantizers.lsq_kernels import flat

BLOCK = 4096


def triton_lsq(value: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """As `lsq`, but for ties, which are rounded up."""
    return _TritonLsq.apply(value, step, low, high)


class _TritonLsq(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, step, low, high):
        out = torch.empty_like(value)
        count = value.numel()
        quantize[blocks(count)](flat(value), flat(out), step, count, low, high, BLOCK)
        ctx.save_for_backward(value, step)
        ctx.bounds = low, high
        return out

    @staticmethod
    def backward(ctx, gradient):
        value, step = ctx.saved_tensors
        if gradient.stride() != value.stride():
            gradient = torch.empty_like(value).copy_(gradient)
        count = value.numel()
        out, sums = torch.empty_like(value), value.new_empty(blocks(count), dtype=torch.float32)
        differentiate[blocks(count)](
            flat(gradient), flat(value), flat(out), sums, step, count, *ctx.bounds, BLOCK
        )
        return out, sums.sum().view_as(step), None, None


def blocks(count: int) -> tuple[int]:
    return (triton.cdiv(count, BLOCK),)


@triton.jit
def quantize(value, out, step, count, low, high, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    s = tl.load(step)
    scaled = tl.load(value + at, mask=at < count, other=0.0).to(tl.float32) / s
    clipped = tl.minimum(tl.maximum(scaled, low), high)
    tl.store(out + at, (tl.floor(clipped + 0.5) * s).to(out.dtype.element_ty), mask=at < count)


@triton.jit
def differentiate(gradient, value, out, sums, step, count, low, high, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gradient + at, mask=at < count, other=0.0).to(tl.float32)
    scaled = tl.load(value + at, mask=at < count, other=0.0).to(tl.float32) / tl.load(step)
    clipped = tl.minimum(tl.maximum(scaled, low), high)
    inside = clipped == scaled
    slope = tl.floor(clipped + 0.5) - tl.where(inside, scaled, 0.0)
    tl.store(out + at, tl.where(inside, g, 0.0).to(out.dtype.element_ty), mask=at < count)
    tl.store(sums + tl.program_id(0), tl.sum(slope * g, axis=0))
