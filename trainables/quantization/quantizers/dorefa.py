"""Grids that are not learned, of weights behind a tanh: DoReFa (Zhou et al. 2016, 1606.06160)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer, shared_axes
from trainables.quantization.quantizers.lsq import StepQuantizer


class FixedQuantizer(StepQuantizer):
    """Rounds to the grid that calibration has chosen; gradients pass where nothing is clipped."""

    def learned_parameters(self) -> Iterable[tuple[nn.Parameter, float]]:
        return ()


class TanhQuantizer(FakeQuantizer):
    """Rounds tanh(w) / max|tanh(w)| of each output channel to fractions of its range.

    The paper has no zero on the grid of weights and none of the channel's range in it: its values
    are 2**bits odd fractions of 1, and a normalisation behind the layer restores the range. Here
    zero is on the grid, as integer arithmetic needs it, from -high to high, and the range is that
    of the weights at calibration.
    """

    def __init__(self, bits: int, shape: tuple[int, ...]) -> None:
        super().__init__(bits)
        self.range: Tensor
        self.register_buffer("range", torch.ones(shape))

    @property
    def step(self) -> Tensor:
        return self.range / self.high

    @torch.no_grad()
    def calibrate(self, value: Tensor) -> None:
        self.range.copy_(self._largest(value).clamp(min=1e-6))

    def _largest(self, value: Tensor) -> Tensor:
        return value.abs().amax(shared_axes(self.range), keepdim=True)

    def _scaled(self, value: Tensor) -> Tensor:
        squashed = value.tanh()
        return squashed * (self.high / self._largest(squashed).clamp(min=1e-6))

    def codes(self, value: Tensor) -> Tensor:
        return self._scaled(value).round().to(torch.int16)

    def forward(self, value: Tensor) -> Tensor:
        scaled = self._scaled(value)
        return (scaled + (scaled.round() - scaled).detach()) * self.step
