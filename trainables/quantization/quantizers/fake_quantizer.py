"""The base of fake quantizers: modules that simulate quantization during training."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trainables.quantization.bits import bounds


class FakeQuantizer(nn.Module):
    """Rounds values to the grid step * {low, ..., high}, and passes gradients through.

    Attributes:
        bits: of the grid's integers.
        signed: whether the grid has negative integers; part of what a state dict holds.
    """

    def __init__(self, bits: int, signed: bool = True) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed

    @property
    def low(self) -> int:
        """The least integer of the grid."""
        return bounds(self.bits, self.signed)[0]

    @property
    def high(self) -> int:
        """The greatest integer of the grid."""
        return bounds(self.bits, self.signed)[1]

    @property
    def step(self) -> Tensor:
        """The distance of neighbouring grid points, positive, broadcastable to the values."""
        raise NotImplementedError

    def calibrate(self, value: Tensor) -> None:
        """Sets the grid for values such as these."""
        raise NotImplementedError

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
        return torch.tensor([self.signed])

    def set_extra_state(self, state: Tensor) -> None:
        self.signed = bool(state.item())
