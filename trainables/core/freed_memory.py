"""The memory that tensors free on a CPU stays with the process, for the tensors that follow."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt`, from its malloc.h."""


def keep_freed_memory() -> None:
    """Keeps freed memory in this process, where the C library has `mallopt` (glibc).

    By default glibc gives freed memory back to the kernel, which zeroes each page again for the
    next tensor: up to a fifth of a quantized step (docs/log.md). Kept memory grows to the most that
    the process needs at once.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_TRIM_THRESHOLD, -1)  # never
        library.mallopt(M_MMAP_MAX, 0)
