"""Packing has an inverse and wastes nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.quantization.bits import (
    bounds,
    find_zero_point,
    negative_share,
    pack_bits,
    packed_length,
    symmetric_zero_point,
    unpack_bits,
)


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


@given(st.data(), st.integers(2, 8))
def test_a_share_gives_its_zero_point_back(data: st.DataObject, bits: int) -> None:
    zero_point = data.draw(st.integers(0, symmetric_zero_point(bits)))
    low, high = bounds(bits, zero_point)
    assert low == -zero_point
    assert high - low == 2**bits - 1
    stored = float(np.float32(negative_share(bits, zero_point)))
    assert find_zero_point(bits, stored) == zero_point


@pytest.mark.parametrize("bits", range(2, 9))
def test_shares_of_old_files_say_whether_a_grid_is_signed(bits: int) -> None:
    assert bounds(bits, find_zero_point(bits, 0.0)) == (0, 2**bits - 1)
    assert bounds(bits, find_zero_point(bits, 1.0)) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@pytest.mark.parametrize("share", [-0.125, 1.125, 0.3, float("nan"), float("inf")])
def test_a_share_of_no_grid_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="a grid of 4 bits must have a zero point"):
        find_zero_point(4, share)
