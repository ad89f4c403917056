"""The base of fake quantizers: modules that simulate quantization during training."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trainables.quantization.bits import (
    bounds,
    find_zero_point,
    negative_share,
    symmetric_zero_point,
)

ZERO_POINTS = 8
"""That are tried between the unsigned and the symmetric grid: all of 4 bits; of 8 bits every 16th,
since a few integers more or less of 256 change little."""
CALIBRATION_VALUES = 1 << 16
"""Of one tensor: more are replaced by evenly spaced ones."""


class FakeQuantizer(nn.Module):
    """Rounds values to the grid step * {low, ..., high}, and passes gradients through.

    Attributes:
        bits: of the grid's integers.
        zero_point: how many of these are negative, from 0 to half of them. It begins with half and
            is part of what a state dict holds. Zero is a point of every grid, so that padding is
            exact.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits, self.zero_point = bits, symmetric_zero_point(bits)

    def change_bits(self, bits: int) -> None:
        """Changes the bits, and keeps the share of negative integers as nearly as the grid can.

        The step does not stay, and a small share may become 0: the grid is to be calibrated again.
        """
        share = negative_share(self.bits, self.zero_point)
        self.bits, self.zero_point = bits, round(share * symmetric_zero_point(bits))

    @property
    def low(self) -> int:
        """The least integer of the grid."""
        return bounds(self.bits, self.zero_point)[0]

    @property
    def high(self) -> int:
        """The greatest integer of the grid."""
        return bounds(self.bits, self.zero_point)[1]

    @property
    def step(self) -> Tensor:
        """The distance of neighbouring grid points, positive, broadcastable to the values."""
        raise NotImplementedError

    @property
    def table(self) -> Tensor | None:
        """The integers that codes are among, ascending, where they are not those of the grid."""
        return None

    @property
    def multipliers(self) -> Tensor | None:
        """Of buckets (output channels, buckets): codes are multiples of them, if there are any."""
        return None

    @property
    def spacing(self) -> Tensor:
        """The distance of the points of each value's grid, broadcastable to the values."""
        return self.step

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest point of the grid, broadcastable to the values."""
        spacing = self.spacing
        return self.low * spacing, self.high * spacing

    def neighbours(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The points of the grid below and above each value, or the two nearest beyond the grid."""
        spacing = self.spacing
        below = (value / spacing).floor().clamp(self.low, self.high - 1)
        return below * spacing, (below + 1) * spacing

    def calibrate(self, value: Tensor) -> None:
        """Sets the step for values such as these, and leaves the zero point."""
        raise NotImplementedError

    @torch.no_grad()
    def calibrate_offset(self, value: Tensor, only_symmetric: bool = False) -> None:
        """Sets the zero point and the step for values of any shape that share one step.

        The grid is unsigned where no value is negative, else symmetric or, unless `only_symmetric`,
        that of the least squared error: behind h-swish and the like, whose negative values are
        small, most integers are positive then. Bhalgat et al. 2020 (arXiv 2004.09576, section 3.1)
        learn such an offset, and also start from the least squared error (section 3.2); theirs is
        no integer, so that zero is on no grid.
        """
        if not (value < 0).any():
            self.zero_point = 0
            self.calibrate(value)
            return
        some, self.zero_point = spaced(value), symmetric_zero_point(self.bits)
        if not only_symmetric:
            self.zero_point = self._find_zero_point(some)
        self.calibrate(some)

    def _find_zero_point(self, value: Tensor) -> int:
        symmetric, errors = symmetric_zero_point(self.bits), {}
        for zero_point in range(symmetric, 0, -max(1, symmetric // ZERO_POINTS)):
            self.zero_point = zero_point
            self.calibrate(value)
            errors[zero_point] = float((self(value) - value).square().sum())
        return min(errors, key=errors.__getitem__)

    @torch.no_grad()
    def codes(self, value: Tensor) -> Tensor:
        """The integers in [low, high] that represent `value`."""
        return (value / self.step).clamp(self.low, self.high).round().to(torch.int16)

    def learned_parameters(self) -> Iterable[tuple[nn.Parameter, float]]:
        """What is trained, each with the factor on the recipe's learning rate of steps.

        Parameters that are left out keep their values; none of a quantizer's own ever decays.
        """
        return ((parameter, 1.0) for parameter in self.parameters())

    def get_extra_state(self) -> Tensor:
        return torch.tensor([negative_share(self.bits, self.zero_point)])

    def set_extra_state(self, state: Tensor) -> None:
        self.zero_point = find_zero_point(self.bits, float(state.item()))


def shared_axes(steps: Tensor) -> list[int]:
    """The axes of values along which they share one of these steps."""
    return [axis for axis, size in enumerate(steps.shape) if size == 1]


def spaced(value: Tensor) -> Tensor:
    """At most `CALIBRATION_VALUES` times two values of a tensor, evenly spaced, as a vector."""
    flat = value.flatten()
    return flat[:: max(1, flat.numel() // CALIBRATION_VALUES)]


def representatives(value: Tensor) -> Tensor:
    """Values, as a vector, that stand for those of a tensor, with its least and greatest."""
    return torch.cat([spaced(value), *(each.view(1) for each in value.aminmax())])
