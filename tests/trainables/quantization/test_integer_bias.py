"""Biases are counted as finely as the weights of their channels allow."""

import numpy as np
import pytest

from trainables.quantization.integer_bias import LARGEST_BIAS, best_factors, countable

RANDOM = np.random.default_rng(0)
PRODUCTS = RANDOM.uniform(-0.2, 0.2, 200).astype(np.float32)
BIAS = RANDOM.normal(0, 1, 200).astype(np.float32)


@pytest.mark.parametrize(
    ("code", "bits", "zero_point", "largest"),
    [
        (1, 4, 0, 64),
        (8, 4, 0, 15),
        (8, 4, 8, 15),
        (8, 8, 0, 8),
        (127, 8, 128, 1),
    ],
)
def test_a_bias_is_nearer_to_what_is_counted_than_with_the_largest_factor(
    code: int, bits: int, zero_point: int, largest: int
) -> None:
    codes = RANDOM.integers(-code, code + 1, (200, 3, 3))
    codes[:, 0, 0] = -code
    factors = best_factors(codes, PRODUCTS, BIAS, bits, zero_point)
    assert factors.min() >= 1
    assert factors.max() <= largest

    def error(factors: np.ndarray) -> np.ndarray:
        return np.abs(countable(BIAS, PRODUCTS, factors) - BIAS)

    assert (error(factors) <= error(np.full(200, largest)) + 1e-6).all()
    if largest == 64:
        assert error(factors).mean() < error(np.full(200, largest)).mean() / 3
    again = countable(BIAS, PRODUCTS, factors)
    factors = best_factors(codes, PRODUCTS, again, bits, zero_point)
    np.testing.assert_allclose(countable(again, PRODUCTS, factors), again, rtol=1e-6)


def test_the_bias_of_a_dead_channel_stays_as_it_is() -> None:
    bias = np.array([0.7, 0.7], np.float32)
    products = np.array([0.2 / LARGEST_BIAS, 0.2], np.float32)
    found = countable(bias, products, np.ones(2, int))
    assert found.tolist() == [np.float32(0.7), pytest.approx(0.6)]
