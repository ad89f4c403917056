"""What a recipe is given and what it gives back."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from trainables.frozen import Frozen


class Task(Protocol):
    """Data, networks and length of one training, whatever the recipe."""

    num_epochs: int
    num_steps: int
    """Optimizer steps in all epochs together."""

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images (B,3,H,W) and labels (B,H,W) of one epoch, counted from 1."""
        ...

    def new_student(self) -> nn.Module:
        """The student with seeded random weights, in training mode."""
        ...

    def starting_student(self, recipe: Frozen, num_epochs: int | None) -> nn.Module:
        """The student as `recipe` trained it in full precision, in training mode.

        For `num_epochs`, or for as many as this training has.
        """
        ...

    def teacher(self) -> nn.Module:
        """The trained teacher, in evaluation mode, without gradients."""
        ...


class Epoch(NamedTuple):
    """The student after an epoch, and the epoch's mean losses by name."""

    student: nn.Module
    losses: dict[str, float]


class MeanLosses:
    """Averages named losses over an epoch without waiting for the device at each step."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + value.detach()
            self.counts[name] = self.counts.get(name, 0) + 1

    def mean(self) -> dict[str, float]:
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}


def total(terms: dict[str, Tensor]) -> Tensor:
    """The sum of named losses."""
    return torch.stack(list(terms.values())).sum()
