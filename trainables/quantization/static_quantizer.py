"""Grids of a converted network."""

from torch import Tensor, nn

from trainables.quantization.bits import bounds
from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer


class StaticQuantizer(nn.Module):
    """Rounds to step * {low, ..., high}; `step` has shape (1,)."""

    def __init__(self, quantizer: FakeQuantizer) -> None:
        super().__init__()
        self.bits, self.zero_point = quantizer.bits, quantizer.zero_point
        self.step: Tensor
        self.register_buffer("step", quantizer.step.detach())

    def codes(self, value: Tensor) -> Tensor:
        """The integers, as floats."""
        return self._round(value / self.step)

    def forward(self, value: Tensor) -> Tensor:
        return self.snap(value / self.step)

    def snap(self, codes: Tensor) -> Tensor:
        """The points of the grid that are nearest to values in steps of it."""
        return self._round(codes) * self.step

    def _round(self, codes: Tensor) -> Tensor:
        return codes.clamp(*bounds(self.bits, self.zero_point)).round()
