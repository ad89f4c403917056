"""Integers of 2 to 8 bits, packed without gaps."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator

from trainables.core.config_base import FrozenConfig


def pack_bits(codes: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """Packs integers in [0, 2**bits) into ceil(n * bits / 8) bytes, lowest bit first."""
    planes = (codes.reshape(-1, 1) >> np.arange(bits)) & 1
    return np.packbits(planes.astype(np.uint8).reshape(-1), bitorder="little")


def unpack_bits(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.int64]:
    """The `count` integers that `pack_bits` packed."""
    planes = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    return planes.astype(np.int64) @ (1 << np.arange(bits))


def packed_length(count: int, bits: int) -> int:
    """Bytes that `count` integers of `bits` bits take."""
    return -(-count * bits // 8)


FULL_PRECISION = 32
"""The bit-width that means: not quantized."""
SAFE_BITS = 8
"""The fewest bits at the ends of a network, and of a grid on which tensors are added."""
LARGEST_CODE = 127
"""The largest magnitude of an integer of 8 bits that has a negative, too."""


def check_bits(bits: int) -> int:
    if not (2 <= bits <= 8 or bits == FULL_PRECISION):
        raise ValueError(f"a bit-width must be 2 to 8, or 32 for off, but got {bits}")
    return bits


Bits = Annotated[int, AfterValidator(check_bits)]


class LayerBits(FrozenConfig):
    """Bit-widths of one layer's weights and inputs."""

    weight_bits: Bits
    activation_bits: Bits


def bounds(bits: int, zero_point: int) -> tuple[int, int]:
    """The least and the greatest integer of a grid, `zero_point` of which are negative."""
    return -zero_point, (1 << bits) - 1 - zero_point


def symmetric_zero_point(bits: int) -> int:
    """The zero point of a grid with as many negative integers as others."""
    return 1 << bits - 1


def negative_share(bits: int, zero_point: int) -> float:
    """A zero point as files hold it: 0 without negative integers, 1 for a symmetric grid."""
    return zero_point / symmetric_zero_point(bits)


def find_zero_point(bits: int, share: float) -> int:
    """The inverse of `negative_share`.

    Raises:
        ValueError: there is no such grid.
    """
    zero_point = share * symmetric_zero_point(bits)
    if not (0 <= share <= 1 and zero_point == int(zero_point)):
        raise ValueError(f"a grid of {bits} bits must have a zero point, but its share is {share}")
    return int(zero_point)
