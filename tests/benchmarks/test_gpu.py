"""The script for GPU machines runs on a CPU, too, and measures what it says."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from trainables.quantization.quantizers import lsq_kernels

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="takes minutes on a GPU")


@pytest.mark.slow
def test_all_sections_but_that_of_many_processes_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lsq_kernels, "MIN_ELEMENTS", 1 << 24)
    sections = [
        "steps",
        "recipes",
        "quantization",
        "traffic",
        "training",
        "one_process",
        "alternatives",
    ]
    out = tmp_path / "gpu.md"
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(out), "--sections", *sections])
    gpu.main()
    written = out.read_text()
    assert written.count("\n### ") == len(sections)
    assert "Failed" not in written
    for recipe in ("supervised", "kept outputs", "live teacher", "W4A4", "co-study"):
        assert recipe in written
    assert "aten::convolution_backward" in written


def test_traffic_is_what_operations_read_and_write() -> None:
    numbers = torch.ones(10, 4)
    with gpu.Traffic() as moved:
        row = numbers[0]  # a view moves nothing
        doubled = row * 2
        torch.empty(1000)
        numbers.add_(1)
    assert doubled.sum() == 8
    assert moved.bytes == 4 * (2 * 4) + 4 * (2 * 40)
