"""Points of weights that are found and learned."""

import pytest
import torch

from trainables.quantization.bits import LARGEST_CODE
from trainables.quantization.quantizers.codebook import CodebookQuantizer, nearest
from trainables.quantization.quantizers.lsq import StepQuantizer

SHAPE = (8, 1, 1, 1)


def draw() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(-3, 0, 8).view(SHAPE)
    return torch.randn(8, 32, 3, 3, generator=generator) * scales


@pytest.mark.parametrize(("bits", "share"), [(2, 0.8), (3, 0.95), (4, 1.0)])
def test_points_err_less_than_a_uniform_grid_with_zero(bits: int, share: float) -> None:
    value, errors = draw(), []
    for quantizer in (CodebookQuantizer(bits, SHAPE), StepQuantizer(bits, SHAPE)):
        quantizer.calibrate(value)
        with torch.no_grad():
            errors.append(
                float(
                    ((quantizer(value) - value) / value.std((1, 2, 3), keepdim=True))
                    .square()
                    .mean()
                )
            )
    assert errors[0] < share * errors[1]


def test_two_bits_of_normal_values_err_nearly_as_little_as_can_be() -> None:
    """0.1175 of the variance (Max 1960, table I)."""
    value, quantizer = draw(), CodebookQuantizer(2, SHAPE)
    quantizer.calibrate(value)
    with torch.no_grad():
        error = (quantizer(value) - value) / value.std((1, 2, 3), keepdim=True)
    assert float(error.square().mean()) < 1.05 * 0.1175


def test_gradients_of_points_steps_and_values() -> None:
    quantizer = CodebookQuantizer(2, (1,))
    with torch.no_grad():
        quantizer.points[:4] = torch.tensor([100.0, -127.0, 20.0, -30.0]) / LARGEST_CODE
        quantizer.log_step.fill_(0.5).log_()
    value = torch.tensor([-90.0, -20.0, 3.0, 12.0, 51.0, 70.0], requires_grad=True)
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    found = quantizer(value)
    found.backward(upstream)
    chosen = torch.tensor([-127.0, -30.0, 20.0, 20.0, 100.0, 100.0])
    torch.testing.assert_close(found.detach(), chosen * 0.5)
    inside = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, 0.0])  # of the points from -63.5 to 50
    assert value.grad is not None
    torch.testing.assert_close(value.grad, upstream * inside)
    # as by LSQ: what rounding adds inside the range, the point itself outside
    slope = chosen - inside * value.detach() / 0.5
    torch.testing.assert_close(quantizer.log_step.grad, (slope * 0.5 * upstream).sum()[None])
    assert quantizer.points.grad is not None
    expected = torch.tensor([5.0 + 6.0, 1.0, 3.0 + 4.0, 2.0]) * 0.5 * LARGEST_CODE
    torch.testing.assert_close(quantizer.points.grad[:4], expected)


def test_fewer_bits_have_fewer_points() -> None:
    value, quantizer = draw(), CodebookQuantizer(3, SHAPE)
    for bits in (8, 4, 2):
        quantizer.change_bits(bits)
        quantizer.calibrate(value)
        assert len(quantizer.table) == 2**bits
        assert bits == 8 or len(quantizer.codes(value).unique()) == 2**bits


def test_the_nearest_point_is_found() -> None:
    points = torch.tensor([-2.0, 0.5, 4.0])
    assert nearest(points, torch.tensor([-9.0, -0.8, 0.4, 2.2, 2.3])).tolist() == [0, 0, 1, 1, 2]
