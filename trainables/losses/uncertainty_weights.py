"""Weights of losses that are learned (Kendall et al. 2018, arXiv 1705.07115, section 3.2)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

LEAST, MOST = 0.1, 3.0
"""Of a weight, so that no loss is forgotten and none decides alone."""


class UncertaintyWeights(nn.Module):
    """Replaces each loss L by w L - log(w) / 2 with a learned weight w from 0.1 to 3.

    That is the paper's L / sigma^2 + log(sigma) for classification (equation 10). Each w begins at
    1, where the losses are what they were; a loss of a constant size ends with a weight of 1/(2 L)
    within the bounds.
    """

    def __init__(self, num_losses: int) -> None:
        super().__init__()
        share = math.log(1 / LEAST) / math.log(MOST / LEAST)
        self.places = nn.Parameter(torch.full((num_losses,), math.log(share / (1 - share))))

    @property
    def weights(self) -> Tensor:
        """The weights (losses,)."""
        return LEAST * (MOST / LEAST) ** self.places.sigmoid()

    def forward(self, losses: Iterable[Tensor], factors: Iterable[float]) -> list[Tensor]:
        """The weighted losses, in the same order.

        Args:
            losses: each multiplied by its factor.
            factors: by which the results are multiplied, too.
        """
        terms = zip(losses, factors, self.weights, strict=True)
        return [weight * loss - factor * weight.log() / 2 for loss, factor, weight in terms]
