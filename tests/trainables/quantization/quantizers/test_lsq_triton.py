"""The Triton kernels of LSQ against its plain operations, by Triton's interpreter on a CPU."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")
PROGRAM = """
import itertools, torch
from trainables.quantization.quantizers import lsq_triton
from trainables.quantization.quantizers.lsq import lsq
from trainables.quantization.quantizers.lsq_triton import is_available, suits, triton_lsq

lsq_triton.BLOCK = 64  # several programs for a row
generator = torch.Generator().manual_seed(0)
assert is_available(torch.device("cpu"))

def check(value, step, low, high):
    assert suits(value, step)
    gradient = torch.randn(value.shape, generator=generator).to(value.dtype)
    found = []
    for quantize in (lsq, triton_lsq):
        of_value, of_step = value.clone().requires_grad_(), step.clone().requires_grad_()
        result = quantize(of_value, of_step, low, high)
        result.backward(gradient)
        assert result.dtype == value.dtype and of_value.grad.stride() == value.stride()
        found.append((result, of_value.grad, of_step.grad))
    exact = 0 if value.dtype == torch.float32 else 2**-7  # the interpreter truncates to bfloat16
    for plain, kernel, tolerance in zip(*found, (exact, exact, 1e-5)):
        torch.testing.assert_close(kernel, plain, rtol=tolerance, atol=tolerance)

formats = torch.contiguous_format, torch.channels_last
for dtype, form, (low, high) in itertools.product(
    (torch.float32, torch.bfloat16), formats, ((0, 15), (-8, 7), (-1, 1), (0, 255))
):
    value = torch.randn(5, 6, 7, 3, generator=generator).to(dtype, memory_format=form)
    value[0, 0, 0, 0] = 0.5 * 0.125 + 0.125 * min(2, high - 1)  # between two points of the grid
    for step in (torch.tensor([0.125]), torch.rand(5, 1, 1, 1, generator=generator) + 0.05):
        check(value, step, low, high)
check(torch.randn(7, 9, generator=generator), torch.rand(7, 1, generator=generator) + 0.1, -8, 7)

value = torch.tensor([float("nan"), 1.0])
assert triton_lsq(value, torch.ones(1), -8, 7)[0].isnan()  # a network that diverges is noticed
assert not suits(torch.randn(4, 4)[:, ::2], torch.ones(1))
assert not suits(torch.randn(4, 4), torch.ones(1, 4))
assert not suits(torch.randn(4, 4).double(), torch.ones(1))
"""


def test_the_kernels_give_the_results_and_gradients_of_plain_operations() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=300)
