"""Packing has an inverse and wastes nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.quant.packing import pack_bits, packed_length, unpack_bits


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
