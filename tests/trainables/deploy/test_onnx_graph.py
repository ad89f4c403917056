"""Biases of the INT8 form are counted as finely as their weights allow."""

import numpy as np
import pytest

from trainables.deploy.onnx_graph import SAFE_BITS, best_factors
from trainables.quantization.convert import StaticQuantizer
from trainables.quantization.quantizers.configs import Lsq


@pytest.mark.parametrize("bits", [2, 3, 5, 7, 8])
def test_biases_are_nearer_to_what_is_counted_than_with_the_largest_factor(bits: int) -> None:
    grid = StaticQuantizer(Lsq().build_input_quantizer(5))
    random = np.random.default_rng(0)
    steps = random.uniform(-0.2, 0.2, 200).astype(np.float32)
    bias, most = random.normal(0, 1, 200).astype(np.float32), 1 << max(0, SAFE_BITS - bits)
    factors = best_factors(steps, grid, bias, most)
    assert factors.min() >= 1
    assert factors.max() <= most

    def error(factors: object) -> np.ndarray:
        products = steps * float(grid.step) / factors
        return np.abs(np.rint(bias / products) * products - bias)

    assert (error(factors) <= error(most) + 1e-6).all()
    if bits == 2:
        assert error(factors).mean() < error(most).mean() / 3
