"""Milliseconds to predict what a configuration costs, in two revisions.

    git worktree add --detach ../before REVISION
    python -m benchmarks.cost_prediction --before ../before --out cost_prediction.md

Each revision predicts in a process of its own, with this interpreter and its packages, in turns, on
one thread: the size of the file, the multiply-accumulates, and, where the revision knows it, the
peak memory for activations, of quantized U-Nets at 128x160 pixels for 21 classes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

WIDTHS = (4, 5, 6, 7, 8, 10, 12, 16)
BITS = (2, 3, 4, 5, 6, 8)
NUM_CLASSES, HEIGHT, WIDTH = 21, 128, 160
KINDS = ("first of all", "first of a width", "other bits of a width")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--before", type=Path, help="a checkout of the older one")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, help="gets the table, as Markdown")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(predict_all()))
        return
    # Not in the child, which may find an older package of this name
    from benchmarks.first_seconds import commit
    from benchmarks.timing import describe_machine, markdown

    if arguments.before is None or arguments.out is None:
        parser.error("--before and --out are required")
    revisions: dict[str, Path] = {"before": arguments.before, "after": arguments.after}
    measured: dict[str, dict[str, list[float]]] = {
        name: {kind: [] for kind in KINDS} for name in revisions
    }
    for repetition in range(arguments.repetitions):
        for name in reversed(revisions) if repetition % 2 else revisions:
            for kind, milliseconds in measure(revisions[name]).items():
                measured[name][kind] += milliseconds
    rows: list[list[object]] = [
        [f"{name}, {commit(revisions[name])}", *(describe(values) for values in kinds.values())]
        for name, kinds in measured.items()
    ]
    text = (
        f"Measured on: {describe_machine(torch.device('cpu'))}, {os.cpu_count()} cores. Median "
        f"(least to greatest) milliseconds a configuration, of {arguments.repetitions} processes "
        f"in turns, each with {len(WIDTHS)} widths and {len(BITS)} bit-widths.\n\n"
        + markdown(["revision", *KINDS], rows)
    )
    arguments.out.write_text(text)
    print(text)


def measure(checkout: Path) -> dict[str, list[float]]:
    """Milliseconds of each prediction of a checkout, by kind."""
    # -P: this file comes from this revision, the packages that it imports from the checkout
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    argv = [sys.executable, "-P", str(Path(__file__).resolve()), "--child"]
    ran = subprocess.run(
        argv, cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    measured: dict[str, list[float]] = json.loads(ran.stdout)
    return measured


def predict_all() -> dict[str, list[float]]:
    """Milliseconds of each prediction by this process's revision, by kind."""
    from trainables.config import TrialConfig
    from trainables.models.configs import UNetConfig
    from trainables.quantization.quantizers.configs import Lsq
    from trainables.recipes.configs import Qat
    from trainables.training import cost

    torch.set_num_threads(1)
    predict_ram: Callable[..., object] | None = getattr(cost, "predict_ram_bytes", None)
    measured: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for place, width in enumerate(WIDTHS):
        for bits in BITS:
            quantizer = Lsq(weight_bits=bits, activation_bits=bits)
            config = TrialConfig(
                student=UNetConfig(width=width), recipe=Qat(quantizer=quantizer), num_epochs=1
            )
            begin = time.perf_counter()
            cost.predict_size_bytes(config, NUM_CLASSES)
            cost.count_macs(config.student, NUM_CLASSES, HEIGHT, WIDTH)
            if predict_ram is not None:
                predict_ram(config, NUM_CLASSES, HEIGHT, WIDTH)
            milliseconds = 1000 * (time.perf_counter() - begin)
            is_first = bits == BITS[0]
            kind = KINDS[2] if not is_first else KINDS[1] if place else KINDS[0]
            measured[kind].append(milliseconds)
    return measured


def describe(values: list[float]) -> str:
    """The median, and the range."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
