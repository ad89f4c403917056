"""Ways to compute LSQ's fake quantization of activations, forward and backward.

    python -m benchmarks.fake_quantization --out fake_quantization.md

Medians of 7 rounds taken in turns, on the GPU if there is one, else on one CPU thread. First call:
what a new process pays, with an empty and with a filled cache of compiled code.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import describe_machine, markdown, median_seconds
from trainables.quantization.quantizers.lsq import lsq
from trainables.quantization.quantizers.lsq_kernels import fused_lsq

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = (
    [(16, 16, 512, 512), (16, 64, 128, 128), (16, 256, 32, 32)]
    if DEVICE.type == "cuda"
    else [(8, 16, 120, 160), (8, 32, 60, 80), (8, 128, 15, 20)]
)
LOW, HIGH = 0, 15
Quantize = Callable[[Tensor, Tensor], Tensor]


def pytorch(value: Tensor, step: Tensor) -> Tensor:
    """PyTorch's own operator, which rounds before it clips."""
    zero = torch.zeros_like(step)
    return torch._fake_quantize_learnable_per_tensor_affine(value, step, zero, LOW, HIGH, 1.0)


def candidates(dtype: torch.dtype) -> dict[str, Quantize]:
    found: dict[str, Quantize] = {
        "plain operations": lambda value, step: lsq(value, step, LOW, HIGH),
        "torch.compile": lambda value, step: fused_lsq(value, step, LOW, HIGH),
    }
    if dtype == torch.float32:  # it knows no other
        found["PyTorch's learnable fake quantizer"] = pytorch
    if DEVICE.type == "cuda":
        from trainables.quantization.quantizers.lsq_triton import triton_lsq

        found["Triton"] = lambda value, step: triton_lsq(value, step, LOW, HIGH)
    return found


def measure(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    value, gradient = (
        torch.randn(shape, generator=generator).to(DEVICE, dtype, memory_format=torch.channels_last)
        for _ in range(2)
    )
    value = value.relu().requires_grad_()
    step = torch.tensor([0.1], device=DEVICE, requires_grad=True)

    def both_ways(quantize: Quantize) -> Callable[[], None]:
        def call() -> None:
            value.grad = step.grad = None
            quantize(value, step).backward(gradient)  # type: ignore[no-untyped-call]

        return call

    ways = candidates(dtype)
    check(ways, value, step)
    return median_seconds({name: both_ways(way) for name, way in ways.items()}, DEVICE)


def check(ways: dict[str, Quantize], value: Tensor, step: Tensor) -> None:
    """All ways give one result, but for values that lie between two points of the grid."""
    results = [way(value, step).float() for way in ways.values()]
    for result in results[1:]:
        differs = (result - results[0]).abs() > 0.01 * step
        assert differs.float().mean() < 0.01


FIRST = """
import time, torch
begin = time.perf_counter()
from trainables.quantization.quantizers.lsq_kernels import fused_lsq
value = torch.rand(4, 4, 64, 64, device={device!r}, requires_grad=True)
step = torch.tensor([0.1], device={device!r}, requires_grad=True)
fused_lsq(value, step, 0, 15).sum().backward()
print(time.perf_counter() - begin)
"""


def first_calls() -> list[float]:
    """Seconds until the first compiled result, with an empty cache and in the next process."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
        program = [sys.executable, "-c", FIRST.format(device=DEVICE.type)]
        return [
            float(subprocess.run(program, env=environment, capture_output=True, check=True).stdout)
            for _ in range(2)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="gets the table, as Markdown")
    out: Path = parser.parse_args().out
    torch.set_num_threads(1)
    text = f"Measured on: {describe_machine(DEVICE)}.\n\n{compare()}"
    out.write_text(text)
    print(text)


def compare() -> str:
    """The comparison, as Markdown."""
    rows: list[list[object]] = []
    for dtype in (torch.float32, torch.bfloat16):
        seconds = {shape: measure(shape, dtype) for shape in SHAPES}
        for name in candidates(dtype):
            times = (f"{1e3 * seconds[shape][name]:.2f}" for shape in SHAPES)
            rows.append([name, str(dtype).removeprefix("torch."), *times])
    empty, filled = first_calls()
    shapes = ("x".join(map(str, shape)) for shape in SHAPES)
    return (
        "Milliseconds forward and backward, by shape of the activations.\n\n"
        + markdown(["way", "activations", *shapes], rows)
        + f"\nThe first compiled call takes {empty:.1f} s with an empty cache, {filled:.1f} s in "
        "every later process.\n"
    )


if __name__ == "__main__":
    main()
