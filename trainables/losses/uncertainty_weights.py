"""Weights of losses that are learned (Kendall et al. 2018, arXiv 1705.07115, section 3.2)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class UncertaintyWeights(nn.Module):
    """Replaces each loss L by exp(-s) L + s / 2, where s is the logarithm of a learned variance.

    That is the paper's L / sigma^2 + log(sigma) for classification (equation 10). Each s begins at
    0, where the losses are what they were; a loss of a constant size ends with a weight of 1/(2 L).
    """

    def __init__(self, num_losses: int) -> None:
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(num_losses))

    def forward(self, losses: Iterable[Tensor]) -> list[Tensor]:
        """The weighted losses, in the same order."""
        pairs = zip(losses, self.log_variances, strict=True)
        return [(-s).exp() * loss + s / 2 for loss, s in pairs]
