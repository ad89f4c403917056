"""Biases are counted as finely as the weights of their channels allow."""

import numpy as np
import pytest
import torch

from trainables.quantization.bits import bounds
from trainables.quantization.convert import LARGEST_BIAS, counts_of
from trainables.quantization.integer_bias import countable, find_factors, stored_offset

RANDOM = np.random.default_rng(0)
PRODUCTS = RANDOM.uniform(-0.2, 0.2, 200).astype(np.float32)
BIAS = RANDOM.normal(0, 1, 200).astype(np.float32)


@pytest.mark.parametrize(
    ("code", "bits", "zero_point", "factor"),
    [(1, 4, 0, 64), (8, 4, 0, 8), (8, 4, 8, 8), (8, 8, 0, 8), (127, 8, 128, 1)],
)
def test_a_bias_is_counted_in_the_finest_parts_that_leave_room_for_products(
    code: int, bits: int, zero_point: int, factor: int
) -> None:
    codes = RANDOM.integers(-code, code + 1, (200, 3, 3))
    codes[:, 0, 0] = -code
    factors = find_factors(codes, bits, zero_point)
    assert (factors == factor).all()
    largest_input = bounds(bits, zero_point)[1] + stored_offset(bits, zero_point)
    assert 2 * factor * code * largest_input < 1 << 15 or factor == 1
    counted = countable(BIAS, PRODUCTS, factors)
    assert (np.abs(counted - BIAS) <= np.abs(PRODUCTS) / factor / 2 + 1e-6).all()
    np.testing.assert_allclose(countable(counted, PRODUCTS, factors), counted, rtol=1e-6)


@pytest.mark.parametrize("factor", [1, 8, 64])
def test_a_bias_that_was_rounded_is_counted_exactly(factor: int) -> None:
    rounded = countable(BIAS, PRODUCTS, np.full(200, factor))
    counts = counts_of(torch.from_numpy(rounded), torch.from_numpy(PRODUCTS)) * factor
    assert torch.equal(counts, counts.round())
    others = counts_of(torch.from_numpy(BIAS), torch.from_numpy(PRODUCTS))
    torch.testing.assert_close(others, torch.from_numpy(BIAS / PRODUCTS))


def test_the_bias_of_a_dead_channel_stays_as_it_is() -> None:
    bias = np.array([0.7, 0.7], np.float32)
    products = np.array([0.2 / LARGEST_BIAS, 0.2], np.float32)
    found = countable(bias, products, np.ones(2, int))
    assert found.tolist() == [np.float32(0.7), pytest.approx(0.6)]
