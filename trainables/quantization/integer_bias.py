"""Biases that integer arithmetic can add.

A convolution of integers adds its bias, in 32 bits, in the steps of its products: that of the
weight times that of the inputs (Jacob et al. 2018, arXiv 1712.05877). A weight of few bits has room
in its 8 bits for codes that are multiplied by a factor, whose step is divided by it, so that the
bias is counted more finely. A network that is measured with such biases has the same accuracy on
integers.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainables.quantization.bits import bounds
from trainables.quantization.convert import ConvertedLayer
from trainables.quantization.layers import channel_axis

Array = NDArray[Any]

LARGEST_BIAS = 1 << 24
"""The largest bias, in steps, so that its sum with the products fits into 32 bits."""
LARGEST_PAIR = (1 << 15) - 1
"""Processors without VNNI add two products of 8-bit integers in 16 bits."""
LARGEST_FACTOR = 64
"""The largest factor on codes, so that a bias that it multiplies fits into 32 bits."""


@torch.no_grad()
def round_biases(network: nn.Module) -> None:
    """Rounds the biases of a converted network's layers of integers to what integers can add."""
    for module in network.modules():
        if not isinstance(module, ConvertedLayer) or module.layer.bias is None:
            continue
        if module.grid is None or module.codes is None or module.step is None:
            continue
        codes = module.codes.movedim(channel_axis(module.layer), 0).cpu().numpy()
        products = (module.step * module.grid.step).cpu().numpy()
        bias = module.layer.bias.cpu().numpy()
        factors = best_factors(codes, products, bias, module.grid.bits, module.grid.zero_point)
        module.layer.bias.copy_(torch.from_numpy(countable(bias, products, factors)))


def stored_offset(bits: int, zero_point: int) -> int:
    """The offset with which the integers of a grid fill up to 8 bits without a sign."""
    return zero_point << 8 - bits


def best_factors(codes: Array, products: Array, bias: Array, bits: int, zero_point: int) -> Array:
    """Factors of 1 to 64 on the codes of each output channel, by which steps are divided.

    They leave the weights as they are, let no sum of two products overflow, and bring each bias
    nearest to a multiple: what it is off by moves values to other points of a coarse grid.

    Args:
        codes: of the weights, with output channels first.
        products: the step of the products of each output channel.
        bits: of the grid of the inputs, as `zero_point`.
    """
    largest_input = bounds(bits, zero_point)[1] + stored_offset(bits, zero_point)
    largest_weight = min(127, LARGEST_PAIR // (2 * largest_input))
    largest_code = np.abs(codes.astype(int)).reshape(len(codes), -1).max(1)
    most = np.maximum(1, largest_weight // np.maximum(1, largest_code))
    factors = np.arange(1, LARGEST_FACTOR + 1)
    counted = (bias.astype(np.float64) / products)[:, None] * factors
    errors = np.abs(counted - np.rint(counted)) / factors
    errors[factors > most[:, None]] = np.inf
    best: Array = factors[errors.argmin(1)]
    return best


def countable(bias: Array, products: Array, factors: Array) -> Array:
    """Biases as the nearest multiples of the steps; those of dead channels stay as they are.

    Where normalisation multiplies a channel by nearly 0, the channel equals its bias.
    """
    steps = products.astype(np.float64) / factors
    rounded = np.rint(bias / steps) * steps
    is_dead = np.abs(bias) > LARGEST_BIAS * np.abs(products)
    return np.where(is_dead, bias, rounded).astype(np.float32)
