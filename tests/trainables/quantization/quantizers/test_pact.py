"""Clipping that is learned: gradients as in the paper, and no others."""

import pytest
import torch

from trainables.quantization.quantizers.pact import ClippingQuantizer

VALUES = torch.tensor([-2.0, -0.4, 0.1, 0.7, 1.0, 2.5])
UPSTREAM = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])


@pytest.mark.parametrize("zero_point", [0, 2])
def test_only_values_that_are_clipped_move_the_clipping_value(zero_point: int) -> None:
    quantizer = ClippingQuantizer(2, (1,))
    quantizer.zero_point = zero_point
    with torch.no_grad():
        quantizer.log_step.fill_(0.5).log_()
    low, high = quantizer.low * 0.5, quantizer.high * 0.5
    value = VALUES.clone().requires_grad_()
    quantizer(value).backward(UPSTREAM)
    above, below = high < VALUES, low > VALUES
    assert above.any()
    assert below.any()
    assert torch.equal(value.grad, UPSTREAM.masked_fill(above | below, 0))  # type: ignore[arg-type]
    # d clip(x) / d log(step) is the clipping value itself, high * step or low * step
    expected = high * UPSTREAM[above].sum() + low * UPSTREAM[below].sum()
    assert quantizer.log_step.grad == pytest.approx(float(expected))
