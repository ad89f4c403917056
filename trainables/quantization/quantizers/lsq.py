"""Learned step size quantization, LSQ (Esser et al. 2019, arXiv 1902.08153)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer, shared_axes, spaced
from trainables.quantization.quantizers.lsq_kernels import flat, fused_way, is_dense

CALIBRATION_ELEMENTS = 1 << 18
"""Of the values times the fractions that `calibrate` compares at once: 1 MB in float32."""


def lsq(
    value: Tensor, step: Tensor, low: int, high: int, learns_from_rounding: bool = True
) -> Tensor:
    """Rounds `value` to the grid step * {low, ..., high}, with LSQ's gradients (equations 1 to 3).

    Those of steps are not scaled by 1 / sqrt(values * high) (section 2.2): Adam divides a constant
    factor away, and only its epsilon would keep small gradients from being learned from.

    Args:
        value: any shape.
        step: positive, broadcastable to `value`; its elements are the learned grids.
        learns_from_rounding: else steps learn from values outside the range alone.
    """
    result: Tensor = _Lsq.apply(value, step, low, high, learns_from_rounding)
    return result


class _Lsq(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, step: Tensor, low: int, high: int, learns_from_rounding: bool
    ) -> Tensor:
        ctx.save_for_backward(value, step)  # the layer before keeps the value, too
        ctx.bounds, ctx.learns_from_rounding = (low, high), learns_from_rounding
        return (value / step).clamp_(low, high).round_().mul_(step).to(value.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, step = ctx.saved_tensors
        low, high = ctx.bounds
        scaled = value / step
        clipped, gradient = scaled.clamp(low, high), gradient.to(scaled.dtype)
        # A mask of floats: bools take four times as long, and masked_fill forgets the memory format
        inside = torch.eq(clipped, scaled, out=scaled)
        # round(v/s) - v/s inside the range, the bound itself outside it
        reached = clipped.round() if ctx.learns_from_rounding else clipped
        slope = reached.addcmul_(inside, clipped, value=-1)
        of_step = product(slope, gradient, step)
        return inside.mul_(gradient).to(value.dtype), of_step, None, None, None


def product(slope: Tensor, gradient: Tensor, step: Tensor) -> Tensor:
    """The sum of the products over the values of each step; overwrites `slope`."""
    if step.numel() == 1 and slope.stride() == gradient.stride() and is_dense(slope):
        return torch.dot(flat(slope), flat(gradient)).view_as(step)
    return slope.mul_(gradient).sum_to_size(step.shape)


class StepQuantizer(FakeQuantizer):
    """Quantizes to `bits` on one learned grid for each element of a step of `shape`.

    The step is learned as its logarithm: it stays positive, and Adam's updates become relative to
    its size whatever the layer's range (Jain et al. 2019, arXiv 1903.08066, section 5.2).
    """

    def __init__(self, bits: int, shape: tuple[int, ...]) -> None:
        super().__init__(bits)
        self.log_step = nn.Parameter(torch.zeros(shape))

    @property
    def step(self) -> Tensor:
        return self.log_step.exp()

    def forward(self, value: Tensor) -> Tensor:
        step = self.step
        quantize = fused_way(value, step) or lsq
        return quantize(value, step, self.low, self.high)

    @torch.no_grad()
    def init_from_mean(self, value: Tensor) -> None:
        """Sets each step to 2 mean|v| / sqrt(high) (section 2.1), from the values sharing it.

        It is less accurate: students that start with `calibrate` reach more mIoU (docs/log.md).
        """
        count = value.numel() / self.log_step.numel()
        mean = value.abs().sum_to_size(self.log_step.shape) / count
        self.log_step.copy_((2 * mean / math.sqrt(self.high)).clamp(min=1e-6).log())

    @torch.no_grad()
    def calibrate(self, value: Tensor) -> None:
        """Sets each step to that of the least squared error, among fractions of the full range.

        If all values share one step, a part of them stands for many (see `spaced`).
        """
        shape = self.log_step.shape
        if self.log_step.numel() == 1:
            value = spaced(value).reshape(-1, *shape[1:])
        others = shared_axes(self.log_step)
        assert others, "values must share steps"
        largest = value.abs().amax(others, keepdim=True)
        least = torch.full(shape, math.inf, device=value.device)
        fractions = torch.linspace(0.02, 1.0, 99).to(value.device)
        for some in torch.split(fractions, max(1, CALIBRATION_ELEMENTS // value.numel())):
            steps = (some.view(-1, *[1] * value.dim()) * largest / self.high).clamp(min=1e-6)
            rounded = (value / steps).clamp_(self.low, self.high).round_().mul_(steps)
            errors = rounded.sub_(value).square_()
            errors = errors.sum([1 + axis for axis in others], keepdim=True)
            error, index = errors.min(0, keepdim=True)
            log_step = steps.gather(0, index)[0].log()
            self.log_step.copy_(torch.where(error[0] < least, log_step, self.log_step))
            least = torch.minimum(error[0], least)
