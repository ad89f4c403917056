"""LSQ's forward and gradients against autograd and PyTorch's own learnable fake quantizer."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from trainables.quantization.quantizers.lsq import StepQuantizer, lsq

GRIDS = [(-128, 127), (-8, 7), (-2, 1), (0, 255), (0, 15), (0, 3), (-16, 239), (-3, 12), (-1, 2)]


def reference(value: Tensor, step: Tensor, low: int, high: int) -> Tensor:
    """The paper's formulas by straight-through tricks, left to autograd."""
    scaled = (value / step).clamp(low, high)
    rounded = (scaled.round() - scaled).detach() + scaled
    return rounded * step


def sample(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("low", "high"), GRIDS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_values_and_gradients_equal_autograd(low: int, high: int, per_channel: bool) -> None:
    value, upstream = sample((6, 4, 3, 3)), sample((6, 4, 3, 3), 1)
    step = torch.full((6, 1, 1, 1) if per_channel else (1,), 1.7 / (high - low))
    step *= 1 + 0.1 * torch.arange(step.numel()).view_as(step)
    ours, theirs = [], []
    for function, gradients in ((lsq, ours), (reference, theirs)):
        v, s = value.clone().requires_grad_(), step.clone().requires_grad_()
        result = function(v, s, low, high)
        result.backward(upstream)
        gradients += [result, v.grad, s.grad]
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("low", "high"), GRIDS)
def test_gradients_equal_pytorch(low: int, high: int) -> None:
    step = torch.tensor([1.7 / (high - low)])
    value = sample((4096,))
    # PyTorch rounds before it clips, so half a step beyond the range counts as inside there
    near = torch.minimum((value / step - low).abs(), (value / step - high).abs()) < 0.51
    value = value[~near]
    upstream = sample(tuple(value.shape), 1)
    v, s = value.clone().requires_grad_(), step.clone().requires_grad_()
    ours = lsq(v, s, low, high)
    ours.backward(upstream)
    w, t = value.clone().requires_grad_(), step.clone().requires_grad_()
    zero = torch.zeros(1)
    theirs = torch._fake_quantize_learnable_per_tensor_affine(w, t, zero, low, high, 1.0)
    theirs.backward(upstream)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(v.grad, w.grad)
    torch.testing.assert_close(s.grad, t.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_the_initial_step_is_the_paper_s_and_its_logarithm_learns(bits: int, share: float) -> None:
    quantizer = StepQuantizer(bits, (4, 1))
    quantizer.zero_point = zero_point = int(share * 2 ** (bits - 1))
    value = sample((4, 50)).abs()
    quantizer.init_from_mean(value)
    high = 2**bits - 1 - zero_point
    torch.testing.assert_close(quantizer.step, 2 * value.mean(1, keepdim=True) / math.sqrt(high))
    quantizer(value).sum().backward()
    step = quantizer.step.detach().requires_grad_()
    lsq(value, step, -zero_point, high).sum().backward()
    assert quantizer.log_step.grad is not None
    torch.testing.assert_close(quantizer.log_step.grad, step.grad * step.detach())


def learn(value: Tensor, rate: float, num_steps: int) -> StepQuantizer:
    """A quantizer that Adam drives to give as little back as it can."""
    quantizer = StepQuantizer(4, (1,))
    quantizer.init_from_mean(value)
    optimizer = torch.optim.Adam(quantizer.parameters(), rate)
    for _ in range(num_steps):
        optimizer.zero_grad()
        quantizer(value).square().sum().backward()
        optimizer.step()
    return quantizer


def test_step_stays_positive_whatever_the_optimizer_does() -> None:
    value = sample((64,))
    quantizer = learn(value, rate=1.0, num_steps=20)
    assert 0 < quantizer.step < 1e-3
    assert quantizer(value).isfinite().all()


def test_an_update_of_a_step_is_relative_to_its_size() -> None:
    value = sample((64,))
    small, large = (learn(factor * value, rate=0.1, num_steps=3) for factor in (1, 1000))
    assert small.step < 0.8 * 2 * value.abs().mean() / math.sqrt(7)
    torch.testing.assert_close(1000 * small.step, large.step)


def test_channel_of_zeros_has_a_finite_step() -> None:
    quantizer = StepQuantizer(4, (2, 1))
    quantizer.init_from_mean(torch.zeros(2, 8))
    assert quantizer(torch.zeros(2, 8)).isfinite().all()


def test_codes_stand_for_the_quantized_value() -> None:
    quantizer, value = StepQuantizer(3, (5, 1)), sample((5, 20))
    quantizer.init_from_mean(value)
    codes = quantizer.codes(value)
    assert int(codes.min()) >= -4
    assert int(codes.max()) <= 3
    assert torch.equal(codes * quantizer.step, quantizer(value))


@pytest.mark.parametrize("zero_point", [0, 3, 8])
def test_the_zero_point_survives_the_state_dict(zero_point: int) -> None:
    quantizer, other = StepQuantizer(4, (1,)), StepQuantizer(4, (1,))
    quantizer.zero_point = zero_point
    other.load_state_dict(quantizer.state_dict())
    assert other.zero_point == zero_point


@pytest.mark.parametrize(("signed", "zero_point"), [(False, 0), (True, 8)])
def test_a_state_of_an_earlier_version_says_whether_the_grid_is_signed(
    signed: bool, zero_point: int
) -> None:
    quantizer = StepQuantizer(4, (1,))
    quantizer.load_state_dict({"log_step": torch.zeros(1), "_extra_state": torch.tensor([signed])})
    assert quantizer.zero_point == zero_point


@pytest.mark.parametrize("shape", [(1,), (4, 1, 1, 1)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_fitted_step_has_less_error_than_neighbours_and_than_the_full_range(
    shape: tuple[int, ...], bits: int
) -> None:
    value = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    quantizer = StepQuantizer(bits, shape)

    def errors(factor: float) -> torch.Tensor:
        step = quantizer.step.detach() * factor
        rounded = (value / step).clamp(quantizer.low, quantizer.high).round() * step
        return (rounded - value).square().sum_to_size(shape)

    quantizer.calibrate(value)
    best = errors(1.0)
    assert (best <= errors(1.15)).all()
    assert (best <= errors(0.85)).all()
    assert (errors(1.0).sum() < value.square().sum()).all()


def test_a_step_of_many_values_is_fitted_to_all_of_them() -> None:
    value = sample((1 << 17,))
    quantizer, fewer = StepQuantizer(4, (1,)), StepQuantizer(4, (1,))
    quantizer.calibrate(value[value.abs().argsort()])
    fewer.calibrate(value[: 1 << 15])
    torch.testing.assert_close(quantizer.step, fewer.step, rtol=0.1, atol=0)


def least_error(value: Tensor, bits: int, zero_points: range) -> float:
    """The least squared error over zero points and steps, one after the other."""
    errors = []
    for zero_point in zero_points:
        high = 2**bits - 1 - zero_point
        for fraction in torch.linspace(0.02, 1.0, 99).tolist():
            step = fraction * float(value.abs().max()) / high
            codes = (value / step).round().clamp(-zero_point, high)
            errors.append(float((codes * step - value).square().sum()))
    return min(errors)


def error_of(quantizer: StepQuantizer, value: Tensor) -> float:
    return float((quantizer(value).detach() - value).square().sum())


ACTIVATIONS = {
    "hardswish": F.hardswish,
    "silu": F.silu,
    "leaky relu": F.leaky_relu,
    "none": lambda value: value,
    "mostly negative": lambda value: -F.hardswish(value),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_calibrated_offset_is_the_best_of_all(name: str, bits: int) -> None:
    value = ACTIVATIONS[name](2 * sample((5000,)))
    quantizer = StepQuantizer(bits, (1,))
    quantizer.calibrate_offset(value)
    best = least_error(value, bits, range(1, 2 ** (bits - 1) + 1))
    assert error_of(quantizer, value) == pytest.approx(best, rel=1e-3)
    assert 0 < quantizer.zero_point <= 2 ** (bits - 1)


def test_behind_a_hard_swish_four_bits_err_far_less_than_a_symmetric_grid() -> None:
    value = F.hardswish(2 * sample((5000,)))
    quantizer, symmetric = StepQuantizer(4, (1,)), StepQuantizer(4, (1,))
    quantizer.calibrate_offset(value)
    symmetric.calibrate_offset(value, only_symmetric=True)
    assert quantizer.zero_point <= 2
    assert symmetric.zero_point == 8
    assert error_of(quantizer, value) < 0.4 * error_of(symmetric, value)


@given(
    st.integers(2, 8),
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=30),
    st.booleans(),
)
def test_any_calibrated_grid_holds_zero(
    bits: int, values: list[float], only_symmetric: bool
) -> None:
    value = torch.tensor(values)
    quantizer = StepQuantizer(bits, (1,))
    quantizer.calibrate_offset(value, only_symmetric)
    assert quantizer.low <= 0 < quantizer.high
    assert quantizer.high - quantizer.low == 2**bits - 1
    assert (quantizer.low == 0) == (min(values) >= 0)
    assert quantizer(torch.zeros(1)) == 0
    assert quantizer.codes(torch.zeros(1)) == 0
