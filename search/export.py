"""Turns points of a study's front into files for the device, each checked before it is kept.

python -m search.export STUDY --format onnx-int8 --max-size 300KB --out DIR
"""

import argparse
import sys
from typing import get_args

from search.deployment.exporter import Exporter, validation_data
from search.deployment.selection import describe_point, read_front_points, select_points
from search.storage.mirrored_studies import download_study
from search.storage.study_file import read_study_file
from trainables.core.command_line import Parser, as_path, as_storage, report
from trainables.core.errors import ExportFailed
from trainables.core.metrics import share_of_classes
from trainables.core.optional_dependencies import require_onnx
from trainables.core.units import human_size
from trainables.data.configs import MEASURED_ON
from trainables.deploy.model_card import ExportFormat, ModelCard

EXAMPLES = """formats:
  packed      the search's own file: bit-packed codes in safetensors, the smallest
  onnx        small: weights stored in INT2, INT4 or INT8; ONNX Runtime 1.31 or newer
  onnx-int8   fast: weights widened to INT8, integer convolutions in ONNX Runtime
              (in your own program on an x86 processor without VNNI, set the session option
              session.x64quantprecision to 1: 8-bit products overflow there otherwise)

exit status: 0 exported; 1 a file failed its checks and was deleted; 2 bad input.
"""


def main(argv: list[str] | None = None) -> int:
    """Exports what the command line names and gives the exit status."""
    arguments = parse(argv)
    return report(lambda: run(arguments), ExportFailed)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m search.export",
        "Export points of a study's front as checked files, a model card beside each.",
        EXAMPLES,
    )
    add = parser.add_argument
    add(
        "study",
        type=as_storage,
        metavar="STUDY",
        help="the study's folder, such as studies/qkd-shapes or s3://bucket/prefix/qkd-shapes",
    )
    add("--trial", metavar="ID", help="export this point")
    add("--all", action="store_true", help="export every point of the front")
    add("--max-size", metavar="SIZE", help="the best point whose file is at most this large")
    add("--min-miou", type=float, metavar="SHARE", help="the smallest point of at least this mIoU")
    add(
        "--format",
        choices=get_args(ExportFormat),
        default="packed",
        help="of the files (default: packed)",
    )
    add("--out", type=as_path, required=True, metavar="DIR", help="gets the files")
    arguments = parser.parse_args(argv)
    limited = arguments.max_size is not None or arguments.min_miou is not None
    if (arguments.trial is not None) + arguments.all + limited > 1:
        parser.error("--trial, --all and limits exclude one another")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    if arguments.format != "packed":
        require_onnx(f"--format {arguments.format}")
    download_study(arguments.study)
    study = read_study_file(arguments.study, "STUDY")
    points = read_front_points(arguments.study)
    data = validation_data(study, arguments.study)
    if arguments.max_size is not None and arguments.format != "packed":
        points = [
            Exporter(study, arguments.study, data, point, arguments.format).sized()
            for point in points
        ]
    chosen = select_points(points, arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    failures = 0
    for choice in chosen:
        print(f"trial {choice.trial_id}: {describe_point(choice)}: {choice.why}", flush=True)
        try:
            exporter = Exporter(study, arguments.study, data, choice, arguments.format)
            card = exporter.export(arguments.out)
            print(f"{arguments.out / card.file}: {describe_card(card)}", flush=True)
        except (ExportFailed, ValueError, OSError) as error:
            if len(chosen) == 1:
                raise
            print(f"error: trial {choice.trial_id}: {error}", file=sys.stderr)
            failures += 1
    if failures:
        raise ExportFailed(f"{failures} of {len(chosen)} points were not exported")


def describe_card(card: ModelCard) -> str:
    """What the checks of an exported file measured, in a line."""
    latencies = "".join(
        f", {latency.median_ms:.3g} ms on {latency.provider.removesuffix('ExecutionProvider')}"
        f"{' beside other work' if latency.is_disturbed else ''}"
        for latency in card.latency
    )
    missed = ""
    if card.class_iou and card.never_predicted:
        share = share_of_classes(len(card.never_predicted), card.class_iou.values())
        missed = f", ! never predicts {share} classes: {', '.join(card.never_predicted)}"
    return (
        f"{human_size(card.size_bytes)}, mIoU {card.miou:.4f} {MEASURED_ON[card.label_size]}, "
        f"{card.changed_pixels} of {card.num_pixels} pixels changed "
        f"({card.changed_pixels / card.num_pixels:.4%}){latencies}{missed}"
    )


if __name__ == "__main__":
    sys.exit(main())
