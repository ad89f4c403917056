"""Latency of every student family on one core, in floats and in 8-bit integers.

    python -m benchmarks.family_latency --out family_latency.md

Networks have random weights, and are calibrated on random images. Both ONNX files of a family run
in turns. What an `onnx-int8` file computes on floats is counted, since each such operation between
integers also needs a conversion of its inputs and outputs.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import describe_machine, markdown, median_seconds
from trainables.core.optional_dependencies import has_timm
from trainables.deploy.latency import untrained
from trainables.deploy.onnx_export import find_float_operations, to_onnx
from trainables.deploy.runtime import CPU, open_session, session_network
from trainables.models.configs import StudentConfig
from trainables.models.model_file import ModelSpec
from trainables.models.student_list import listed_families
from trainables.quantization.quantizers.configs import Lsq
from trainables.training.cost import count_macs, find_roles

CPU_DEVICE = torch.device("cpu")
ROUNDS = 31


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="gets the table, as Markdown")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--classes", type=int, default=21)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = (arguments.height, arguments.width)
    rows: list[list[object]] = []
    for name, family in listed_families().items():
        if "lite0" in name and not has_timm():
            print(f"{name}: timm is not installed", flush=True)
            continue
        student = family.model_validate({"name": name})
        rows.append(measured(student, arguments.classes, size))
        print(*rows[-1], flush=True)
    header = ["students", "million MACs", "FP32, ms", "W8A8, ms", "W8A8 / FP32", "on floats"]
    text = (
        f"Measured on: {describe_machine(CPU_DEVICE)}, one core, one image of {size[0]}x{size[1]} "
        f"pixels, {arguments.classes} classes. Medians of {ROUNDS} rounds in turns.\n\n"
        + markdown(header, rows)
    )
    arguments.out.write_text(text)
    print(text)


def measured(student: StudentConfig, num_classes: int, size: tuple[int, int]) -> list[object]:
    """A row of the table."""
    floats = ModelSpec(model=student, num_classes=num_classes)
    integers = floats.replace(
        quantizer=Lsq(weight_bits=8, activation_bits=8),
        with_additions=bool(find_roles(student, num_classes).additions),
    )
    image = np.zeros((1, 3, *size), np.float32)
    things: dict[str, Callable[[], object]] = {}
    for spec, name in ((floats, "FP32"), (integers, "W8A8")):
        model = to_onnx(untrained(spec), num_classes, "onnx-int8", {})
        session = open_session(model.SerializeToString(), CPU, 1)
        things[name] = partial(session_network(session), image)
    seconds = median_seconds(things, CPU_DEVICE, ROUNDS)
    return [
        student.name,
        f"{count_macs(student, num_classes, *size) / 1e6:,.0f}",
        f"{1e3 * seconds['FP32']:.1f}",
        f"{1e3 * seconds['W8A8']:.1f}",
        f"{seconds['W8A8'] / seconds['FP32']:.2f}",
        len(find_float_operations(untrained(integers))),
    ]


if __name__ == "__main__":
    main()
