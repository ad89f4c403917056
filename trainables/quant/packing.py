"""Integers of 2 to 8 bits, packed without gaps."""

import numpy as np
from numpy.typing import NDArray


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
