"""Freed memory is used again without asking the kernel for it."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from trainables.core.freed_memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def step():
    return [torch.ones(4 << 20) for _ in range(4)]

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(way: str) -> int:
    command = [sys.executable, "-c", PROGRAM, way]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="the C library is not glibc",
)
def test_pages_are_not_asked_for_again() -> None:
    assert page_faults("kept") < 100 < 1000 < page_faults("returned")
