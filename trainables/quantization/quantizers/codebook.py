"""Grids whose points are learned: differentiable quantization (Polino et al. 2018, 1802.05668)."""

import torch
from torch import Tensor, nn

from trainables.quantization.bits import LARGEST_CODE, SAFE_BITS
from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer, shared_axes, spaced

ITERATIONS = 20
"""Of Lloyd's algorithm."""


class CodebookQuantizer(FakeQuantizer):
    """Weights as multiples, for each output channel, of 2**bits learned points of their layer.

    The paper learns points between 0 and 1 of the range of weights. Here they are integers from
    -127 to 127 of a step, and the step of each output channel is learned as by LSQ, so that a
    layer computes with 8-bit integers, and its weights take `bits` bits and a table.
    """

    def __init__(self, bits: int, shape: tuple[int, ...]) -> None:
        super().__init__(bits)
        self.log_step = nn.Parameter(torch.zeros(shape))
        # As many as the most bits have, so that bits can be lowered while training
        self.points = nn.Parameter(torch.linspace(-1, 1, 2**SAFE_BITS))

    @property
    def step(self) -> Tensor:
        return self.log_step.exp()

    @property
    def table(self) -> Tensor:
        return self._integers().detach()

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        return self.table[0] * self.step, self.table[-1] * self.step

    def neighbours(self, value: Tensor) -> tuple[Tensor, Tensor]:
        integers, scaled = self.table, (value / self.step).contiguous()
        below = torch.bucketize(scaled, integers, right=True).clamp(1, len(integers) - 1) - 1
        return integers[below] * self.step, integers[below + 1] * self.step

    def codes(self, value: Tensor) -> Tensor:
        integers = self.table
        return integers[nearest(integers, value.detach() / self.step.detach())].to(torch.int16)

    def forward(self, value: Tensor) -> Tensor:
        integers, scaled = self._integers(), value / self.step
        chosen = integers[nearest(integers.detach(), scaled.detach())]
        inside = (scaled >= integers[0]) & (scaled <= integers[-1])
        passed = scaled.where(inside, scaled.detach())  # what is clipped has no gradient
        return (chosen + passed - passed.detach()) * self.step

    def _integers(self) -> Tensor:
        """The points in use (2**bits,), in ascending order; gradients pass their rounding."""
        points = self.points[: 2**self.bits].sort().values * LARGEST_CODE
        return points.detach().round().clamp(-LARGEST_CODE, LARGEST_CODE) + (
            points - points.detach()
        )

    @torch.no_grad()
    def calibrate(self, value: Tensor) -> None:
        """Sets points and steps to a low squared error, by turns (Lloyd 1982)."""
        shared = shared_axes(self.log_step)
        scale = value.square().mean(shared, keepdim=True).sqrt().clamp(min=1e-6)
        some = spaced(value / scale)
        count = 2**self.bits
        points = some.quantile((torch.arange(count, device=some.device) + 0.5) / count)
        for _ in range(ITERATIONS):
            index = nearest(points, some)
            sums = torch.zeros_like(points).index_add_(0, index, some)
            counts = torch.zeros_like(points).index_add_(0, index, torch.ones_like(some))
            points = torch.where(counts > 0, sums / counts.clamp(min=1), points).sort().values
        largest = points.abs().max().clamp(min=1e-6)
        self.points[:count] = points / largest
        self.log_step.copy_((scale * largest / LARGEST_CODE).log())
        for _ in range(ITERATIONS):
            codes = self.codes(value).to(value)
            energy = codes.square().sum(shared, keepdim=True)
            step = (value * codes).sum(shared, keepdim=True) / energy.clamp(min=1)
            self.log_step.copy_(torch.where(step > 1e-6, step.clamp(min=1e-6).log(), self.log_step))


def nearest(points: Tensor, value: Tensor) -> Tensor:
    """The places of the nearest of some points, which ascend."""
    return torch.bucketize(value.contiguous(), (points[1:] + points[:-1]) / 2)
