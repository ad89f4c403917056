"""Buckets: consecutive weights of an output channel that share a multiplier of the channel's step.

Polino et al. 2018 (arXiv 1802.05668) scale each bucket of weights by itself; multipliers that are
integers of few bits are those of Dai et al. 2021 (arXiv 2102.04503).

No file of the training framework is imported, since the sizes of files are known without it.
"""

import math
from typing import TYPE_CHECKING

from trainables.quantization.bits import packed_length

if TYPE_CHECKING:
    from torch import Size, Tensor

BUCKET = 16
"""The weights of a bucket, but for the last one of a channel."""
MULTIPLIER_BITS = 4
LARGEST_MULTIPLIER = (1 << MULTIPLIER_BITS) - 1


def count_buckets(num_weights: int) -> int:
    """The buckets of so many weights of one output channel."""
    return -(-num_weights // BUCKET)


def multiplier_bytes(num_weights: int, num_channels: int) -> int:
    """The bytes of a layer's multipliers in its file."""
    return packed_length(num_channels * count_buckets(num_weights // num_channels), MULTIPLIER_BITS)


def over_weight(multipliers: "Tensor", shape: "Size", axis: int) -> "Tensor":
    """Multipliers (output channels, buckets) as a tensor of the weight's shape."""
    others = [size for other, size in enumerate(shape) if other != axis]
    by_weight = multipliers.repeat_interleave(BUCKET, 1)[:, : math.prod(others)]
    return by_weight.reshape(-1, *others).movedim(0, axis)
