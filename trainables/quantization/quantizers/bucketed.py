"""Uniform grids that are scaled bucket by bucket (Polino et al. 2018, arXiv 1802.05668)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.quantization.bits import LARGEST_CODE
from trainables.quantization.buckets import (
    BUCKET,
    LARGEST_MULTIPLIER,
    count_buckets,
    over_weight,
)
from trainables.quantization.quantizers.lsq import StepQuantizer, lsq


class BucketQuantizer(StepQuantizer):
    """Weights on the grid of their bucket: a multiple of the learned step of its output channel.

    The paper scales each bucket by a float. Here multipliers are integers up to 15, so that a
    layer computes with 8-bit integers, the products of codes and multipliers (Dai et al. 2021,
    arXiv 2102.04503). They are learned with the gradient of LSQ's step.
    """

    def __init__(self, bits: int, weight: Tensor, step_shape: tuple[int, ...]) -> None:
        super().__init__(bits, step_shape)
        # Of an output channel alone, or of an input channel alone, both axes would do
        self.axis = max((0, 1), key=lambda axis: (step_shape[axis], -weight.shape[axis]))
        self.shares = nn.Parameter(torch.ones(in_buckets(weight, self.axis).shape[:2]))
        self.shape = weight.shape

    @property
    def multipliers(self) -> Tensor:
        return self._multipliers().detach()

    @property
    def spacing(self) -> Tensor:
        return over_weight(self._multipliers(), self.shape, self.axis) * self.step

    def codes(self, value: Tensor) -> Tensor:
        within = (value / self.spacing).clamp(self.low, self.high).round()
        return (within * over_weight(self.multipliers, self.shape, self.axis)).to(torch.int16)

    def forward(self, value: Tensor) -> Tensor:
        return lsq(value, self.spacing, self.low, self.high)

    def _multipliers(self) -> Tensor:
        """Integers (output channels, buckets); gradients pass their rounding within the bounds."""
        multipliers = (self.shares * self._largest).clamp(1, self._largest)
        return multipliers.detach().round() + (multipliers - multipliers.detach())

    @property
    def _largest(self) -> int:
        """The largest multiplier."""
        return max(1, min(LARGEST_MULTIPLIER, LARGEST_CODE // -self.low))

    @torch.no_grad()
    def calibrate(self, value: Tensor) -> None:
        """Sets the step of each bucket to that of the least squared error, then all to integers."""
        buckets = in_buckets(value, self.axis)
        own = StepQuantizer(self.bits, (*buckets.shape[:2], 1)).to(value.device)
        own.calibrate(buckets)
        steps = own.step[:, :, 0]
        largest = steps.amax(1, keepdim=True)
        self.shares.copy_(steps / largest)
        self.log_step.copy_((largest / self._largest).log().view(self.log_step.shape))


def in_buckets(weight: Tensor, axis: int) -> Tensor:
    """A weight as (output channels, buckets, BUCKET), filled up with zeros."""
    by_channel = weight.movedim(axis, 0).flatten(1)
    num_buckets = count_buckets(by_channel.shape[1])
    padded = F.pad(by_channel, (0, num_buckets * BUCKET - by_channel.shape[1]))
    return padded.view(len(padded), num_buckets, BUCKET)
