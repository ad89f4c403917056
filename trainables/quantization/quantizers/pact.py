"""Parameterized clipping activation, PACT (Choi et al. 2018, arXiv 1805.06085)."""

from torch import Tensor

from trainables.quantization.quantizers.lsq import StepQuantizer, lsq


class ClippingQuantizer(StepQuantizer):
    """Learns where values are clipped, and only from those that are.

    The clipping value is the step times the greatest integer of the grid. Values within the grid
    pass their gradient on and contribute none to the step: this is the difference to LSQ, which
    also learns from what rounding changes. Grids with negative integers, which the paper does not
    have, are clipped at both ends.
    """

    def forward(self, value: Tensor) -> Tensor:
        return lsq(value, self.step, self.low, self.high, learns_from_rounding=False)
