"""Measures ratios of times, interleaved in one run."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch

ROUNDS = 7


def median_seconds(
    things: Mapping[str, Callable[[], object]], device: torch.device, rounds: int = ROUNDS
) -> dict[str, float]:
    """Median seconds of each, interleaved after a warm-up, so that noise affects all equally."""
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for turn in range(rounds + 1):
        for name, thing in things.items():
            synchronize(device)
            begin = time.perf_counter()
            thing()
            synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe_machine(device: torch.device) -> str:
    """A description of the machine and the versions."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())
    return f"{name}, Python {platform.python_version()}, torch {torch.__version__}"


def markdown(heading: list[str], rows: list[list[object]]) -> str:
    """A table."""
    lines: list[list[object]] = [[*heading], ["---"] * len(heading), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)
