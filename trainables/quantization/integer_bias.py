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
from trainables.quantization.convert import FINEST, LARGEST_BIAS, ConvertedLayer
from trainables.quantization.layers import channel_axis

Array = NDArray[Any]

LARGEST_PAIR = (1 << 15) - 1
"""Processors without VNNI add two products of 8-bit integers in 16 bits."""


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
        factors = find_factors(codes, module.grid.bits, module.grid.zero_point)
        module.layer.bias.copy_(torch.from_numpy(countable(bias, products, factors)))


def stored_offset(bits: int, zero_point: int) -> int:
    """The offset with which the integers of a grid fill up to 8 bits without a sign."""
    return zero_point << 8 - bits


def find_factors(codes: Array, bits: int, zero_point: int) -> Array:
    """The largest factor, a power of 2, on the codes of each output channel.

    Steps are divided by it, so that weights stay as they are, also after the rounding of floats,
    and no sum of two products overflows. Compact model files are read by this rule.

    Args:
        codes: of the weights, with output channels first.
        bits: of the grid of the inputs, as `zero_point`.
    """
    largest_input = bounds(bits, zero_point)[1] + stored_offset(bits, zero_point)
    largest_weight = min(127, LARGEST_PAIR // (2 * largest_input))
    largest_code = np.abs(codes.astype(int)).reshape(len(codes), -1).max(1)
    most = np.clip(largest_weight // np.maximum(1, largest_code), 1, FINEST)
    factors: Array = 1 << np.log2(most).astype(int)
    return factors


def countable(bias: Array, products: Array, factors: Array) -> Array:
    """Biases as the nearest multiples of the steps; those of dead channels stay as they are.

    Where normalisation multiplies a channel by nearly 0, the channel equals its bias.
    """
    steps = products.astype(np.float64) / factors
    dead = (np.abs(bias) > LARGEST_BIAS * np.abs(products)) | (products == 0)
    counts = np.rint(np.divide(bias, steps, out=np.zeros_like(steps), where=~dead))
    return np.where(dead, bias, counts * steps).astype(np.float32)
