"""Packing has an inverse and wastes nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.quantization.bits import pack_bits, packed_length, unpack_bits


@given(st.data(), st.integers(2, 8))
def test_unpacking_inverts_packing(data: st.DataObject, bits: int) -> None:
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=200))
    codes = np.array(values, dtype=np.int64)
    packed = pack_bits(codes, bits)
    assert len(packed) == packed_length(len(codes), bits) == -(-len(codes) * bits // 8)
    np.testing.assert_array_equal(unpack_bits(packed, bits, len(codes)), codes)


@pytest.mark.parametrize("bits", range(2, 9))
def test_extreme_codes(bits: int) -> None:
    codes = np.array([0, 2**bits - 1] * 5)
    np.testing.assert_array_equal(unpack_bits(pack_bits(codes, bits), bits, 10), codes)


@pytest.mark.parametrize(
    ("codes", "bits", "packed"),
    [
        ([1, 2, 3], 2, [0b11_10_01]),
        ([1, 2, 3], 3, [0b11_010_001, 0b0]),
        ([1, 2, 3], 4, [0b0010_0001, 0b0011]),
        ([1, 2, 3], 8, [1, 2, 3]),
        ([17, 6], 5, [0b110_10001, 0b00]),
    ],
)
def test_the_lowest_bit_of_the_first_code_comes_first(
    codes: list[int], bits: int, packed: list[int]
) -> None:
    assert pack_bits(np.array(codes), bits).tolist() == packed
    unpacked = unpack_bits(np.array(packed, dtype=np.uint8), bits, len(codes))
    assert unpacked.tolist() == codes
