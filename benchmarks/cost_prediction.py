"""Milliseconds to predict what a configuration costs, in two revisions.

    git worktree add --detach ../before REVISION
    python -m benchmarks.cost_prediction --before ../before --out cost_prediction.md

Each revision predicts in a process of its own, with this interpreter and its packages, in turns, on
one thread: the size of the file, the multiply-accumulates, the parameters, and the peak memory for
activations, of quantized students at 128x160 pixels for 21 classes. What is measured is processor
time, which other programs lengthen less than they lengthen the time that passes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from trainables.models.configs import StudentConfig

FAMILIES = (
    "unet",
    "unet_mobilenet_v1",
    "unet_mobilenet_v2",
    "unet_mobilenet_v3_small",
    "unet_efficientnet_lite0",
    "unet_resnet18",
    "deeplabv3_mobilenet_v1",
    "deeplabv3_mobilenet_v2",
    "deeplabv3_mobilenet_v3_small",
    "deeplabv3_efficientnet_lite0",
    "deeplabv3_resnet18",
    "lraspp_mobilenet_v3_small",
)
WIDTHS = (4, 5, 6, 7, 8, 10, 12, 16)
"""Of U-Nets."""
BITS = (2, 3, 4, 5, 6, 8)
NUM_CLASSES, HEIGHT, WIDTH = 21, 128, 160
FIRST, WIDER, DECODER, BIT_WIDTHS = (
    "first of its family",
    "first of its width or multiplier",
    "first of its decoder's width",
    "other bits",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--before", type=Path, help="a checkout of the older one")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, help="gets the table, as Markdown")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps({family: predict_all(family) for family in FAMILIES}))
        return
    # Not in the child, which may find an older package of this name
    from benchmarks.first_seconds import commit
    from benchmarks.timing import describe_machine, markdown

    if arguments.before is None or arguments.out is None:
        parser.error("--before and --out are required")
    checkouts: Sequence[Path] = (arguments.before, arguments.after)
    measured: Sequence[dict[tuple[str, str], list[float]]] = [defaultdict(list) for _ in checkouts]
    for repetition in range(arguments.repetitions):
        for place in (1, 0) if repetition % 2 else (0, 1):
            for family, by_kind in measure(checkouts[place]).items():
                for kind, milliseconds in by_kind.items():
                    measured[place][family, kind] += milliseconds
    rows: list[list[object]] = []
    for family in FAMILIES:
        kinds = [kind for name, kind in measured[0] if name == family]
        rows += [
            [family, kind, *(describe(each[family, kind]) for each in measured)] for kind in kinds
        ]
        later = [
            statistics.mean(ms for kind in kinds if kind != FIRST for ms in each[family, kind])
            for each in measured
        ]
        rows.append([family, "mean of all after the first", *(f"{mean:.1f}" for mean in later)])
    header = ["students", "configuration", *map(commit, checkouts)]
    text = (
        f"Measured on: {describe_machine(torch.device('cpu'))}, {os.cpu_count()} cores. Median "
        f"(least to greatest) milliseconds of processor time for one configuration, in two "
        f"revisions, of {arguments.repetitions} processes in turns.\n\n" + markdown(header, rows)
    )
    arguments.out.write_text(text)
    print(text)


def measure(checkout: Path) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each prediction of a checkout, by family and kind."""
    # -P: this file comes from this revision, the packages that it imports from the checkout
    paths = [str(checkout.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    argv = [sys.executable, "-P", str(Path(__file__).resolve()), "--child"]
    ran = subprocess.run(
        argv, cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    measured: dict[str, dict[str, list[float]]] = json.loads(ran.stdout)
    return measured


def predict_all(family: str) -> dict[str, list[float]]:
    """Milliseconds of each prediction by this process's revision, by kind."""
    from trainables.config import TrialConfig
    from trainables.quantization.quantizers.configs import Lsq
    from trainables.recipes.configs import Qat
    from trainables.training import cost

    torch.set_num_threads(1)
    measured: Mapping[str, list[float]] = defaultdict(list)
    for student, kind in students_of(family):
        for bits in BITS:
            quantizer = Lsq(weight_bits=bits, activation_bits=bits)
            config = TrialConfig(student=student, recipe=Qat(quantizer=quantizer), num_epochs=1)
            begin = time.process_time()
            cost.predict_size_bytes(config, NUM_CLASSES)
            cost.count_macs(student, NUM_CLASSES, HEIGHT, WIDTH)
            cost.count_params(student, NUM_CLASSES)
            cost.predict_ram_bytes(config, NUM_CLASSES, HEIGHT, WIDTH)
            milliseconds = 1000 * (time.process_time() - begin)
            measured[kind if bits == BITS[0] else BIT_WIDTHS].append(milliseconds)
    return dict(measured)


def students_of(family: str) -> Iterator[tuple["StudentConfig", str]]:
    """The students of a family that a search tries, each with its kind."""
    from trainables.models.student_list import parse_student

    student = parse_student(family)
    choices = dict(student.choices())
    decoders = choices.pop("channels", (None,))
    widths = WIDTHS if family == "unet" else choices.pop("multiplier", (None,))
    field = "width" if family == "unet" else "multiplier"
    for place, (width, decoder) in enumerate(product(widths, decoders)):
        kind = WIDER if decoder == decoders[0] else DECODER
        sizes = {field: width, "channels": decoder}
        changed = student.replace(**{name: size for name, size in sizes.items() if size})
        yield changed, kind if place else FIRST


def describe(values: Sequence[float]) -> str:
    """The median, and the range."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
