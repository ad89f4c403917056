"""Oscillation dampening of quantized weights (Nagel et al. 2022, arXiv 2203.11086)."""

import math

import torch
from torch import Tensor, nn

from trainables.quantization.layers import QuantizedLayer


def dampening_loss(student: nn.Module) -> Tensor:
    """The squared distances of all weights to their grid points, summed.

    Weights beyond the grid count as its ends, so that clipped ones get no gradient. Grid points
    and steps get none at all.
    """
    distances = [torch.zeros((), device=next(student.parameters()).device)]
    for layer in student.modules():
        if isinstance(layer, QuantizedLayer) and (grid := layer.weight_quantizer) is not None:
            weight, (low, high) = layer.layer.weight, grid.ends
            clipped = torch.maximum(torch.minimum(weight, high.detach()), low.detach())
            distances.append((grid(weight).detach() - clipped).square().sum())
    return torch.stack(distances).sum()


def dampening_weight(weight: float, step: int, num_steps: int) -> float:
    """The weight of the loss in an optimizer step: half a cosine from 0 up to `weight`."""
    return weight * (1 - math.cos(math.pi * step / num_steps)) / 2
