"""DoReFa's grid of weights, and grids that are not learned."""

import math

import pytest
import torch

from trainables.quantization.quantizers.dorefa import FixedQuantizer, TanhQuantizer

WEIGHT = torch.tensor([[0.9, -0.3, 0.1, 0.0], [-0.02, 0.008, 0.015, 0.001]])


def test_weights_are_fractions_of_the_largest_tanh_of_their_channel() -> None:
    quantizer = TanhQuantizer(3, (2, 1))
    quantizer.calibrate(WEIGHT)
    scaled = [
        [3 * math.tanh(value) / math.tanh(max(map(abs, row))) for value in row]
        for row in WEIGHT.tolist()
    ]
    expected = [[round(value) for value in row] for row in scaled]
    assert quantizer.codes(WEIGHT).tolist() == expected == [[3, -1, 0, 0], [-3, 1, 2, 0]]
    torch.testing.assert_close(quantizer.step, torch.tensor([[0.9 / 3], [0.02 / 3]]))


def test_gradients_of_weights_are_those_of_the_tanh() -> None:
    quantizer = TanhQuantizer(3, (2, 1))
    quantizer.calibrate(WEIGHT)
    weight = WEIGHT.clone().requires_grad_()
    quantizer(weight)[0, 1].backward()
    assert weight.grad is not None
    slope = 0.9 / math.tanh(0.9) * (1 - math.tanh(0.3) ** 2)
    assert float(weight.grad[0, 1]) == pytest.approx(slope, rel=1e-5)
    assert weight.grad[0, 0] != 0  # the largest value sets the range of all


def test_fixed_grids_stay_and_pass_gradients_of_what_is_not_clipped() -> None:
    quantizer = FixedQuantizer(2, (1,))
    quantizer.zero_point = 0
    value = torch.tensor([-1.0, 0.4, 2.6, 9.0], requires_grad=True)
    quantizer(value).sum().backward()
    assert not list(quantizer.learned_parameters())
    assert value.grad is not None
    assert value.grad.tolist() == [0, 1, 1, 0]
