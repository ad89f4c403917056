"""The compiled quantizer is the reference, faster."""

import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from trainables.quantization.quantizers import lsq_kernels as fused
from trainables.quantization.quantizers.lsq import StepQuantizer, lsq
from trainables.quantization.quantizers.lsq_kernels import fused_lsq, is_worthwhile, kernels

SHAPE = (4, 3, 10, 6)


@pytest.fixture
def compiled() -> None:
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("no C++ compiler")
    assert kernels("cpu") is not None


def run(
    quantize: object, value: Tensor, step: Tensor, low: int, high: int, gradient: Tensor
) -> list[Tensor | None]:
    v, s = value.clone().requires_grad_(), step.clone().requires_grad_()
    result = quantize(v, s, low, high)  # type: ignore[operator]
    result.backward(gradient)
    return [result, v.grad, s.grad]


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("low", "high"), [(0, 3), (0, 255), (-8, 7), (-128, 127), (-3, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_it_equals_the_reference(
    low: int, high: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(SHAPE, generator=generator).to(dtype, memory_format=layout)
    gradient = torch.randn(SHAPE, generator=generator).to(dtype)
    step = torch.tensor([1.5 / (high - low)])
    ours = run(fused_lsq, value, step, low, high, gradient)
    reference = run(lsq, value, step, low, high, gradient)
    for mine, theirs in zip(ours[:2], reference[:2], strict=True):
        assert mine is not None
        assert theirs is not None
        assert mine.dtype == dtype
        assert torch.equal(mine, theirs)
    torch.testing.assert_close(ours[2], reference[2], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("compiled")
def test_only_large_dense_tensors_with_one_step_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "MIN_ELEMENTS", 100)
    one, many = torch.ones(1), torch.ones(4, 1, 1, 1)
    value = torch.randn(SHAPE)
    assert is_worthwhile(value, one)
    assert is_worthwhile(value.to(memory_format=torch.channels_last), one)
    assert not is_worthwhile(value, many)
    assert not is_worthwhile(value[:, :, ::2], one)
    assert not is_worthwhile(value[:1, :1], one)


@pytest.fixture
def fresh_kernels() -> Iterator[None]:
    kernels.cache_clear()
    yield
    kernels.cache_clear()


@pytest.mark.usefixtures("fresh_kernels")
def test_without_a_compiler_the_reference_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function: object, **options: object) -> object:
        def fail(*tensors: Tensor) -> None:
            raise RuntimeError("no compiler\nand much more")

        return fail

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(fused, "MIN_ELEMENTS", 100)
    quantizer = StepQuantizer(4, (1,))
    with pytest.warns(UserWarning, match="not compiled, and slower: no compiler$"):
        result = quantizer(torch.randn(SHAPE))
    assert result.shape == SHAPE
