"""Biases of the INT8 form are counted as finely as their weights allow."""

import numpy as np
import pytest

from trainables.deploy.onnx_graph import best_factors
from trainables.quantization.convert import StaticQuantizer
from trainables.quantization.quantizers.configs import Lsq


@pytest.mark.parametrize("largest", [64, 18, 9, 2, 1, 0])
def test_biases_are_nearer_to_what_is_counted_than_with_the_largest_factor(largest: int) -> None:
    grid = StaticQuantizer(Lsq().build_input_quantizer(5))
    random = np.random.default_rng(0)
    steps = random.uniform(-0.2, 0.2, 200).astype(np.float32)
    bias, most = random.normal(0, 1, 200).astype(np.float32), np.full(200, max(1, largest))
    factors = best_factors(steps, grid, bias, np.full(200, largest))
    assert factors.min() >= 1
    assert (factors <= most).all()

    def error(factors: object) -> np.ndarray:
        products = steps * float(grid.step) / factors
        return np.abs(np.rint(bias / products) * products - bias)

    assert (error(factors) <= error(most) + 1e-6).all()
    if largest == 64:
        assert error(factors).mean() < error(most).mean() / 3
