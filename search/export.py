"""Turns points of a study's front into files for the device, each checked before it is kept.

python -m search.export STUDY --format onnx-int8 --max-size 300KB --out DIR
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq

from search.model_card import ExportCard, ExportFormat, Preprocessing, card_file
from search.plots import human_size
from search.study_file import StudyFile, installed_versions, read_study_file
from search.units import parse_size
from trainables.agreement import Agreement, compare
from trainables.artifacts import ArtifactStore
from trainables.command_line import Parser, as_path, report
from trainables.data.pack import PackedData, open_pack, pack
from trainables.data.prepare import open_source
from trainables.errors import ExportFailed
from trainables.extras import require_onnx
from trainables.files import replace_file
from trainables.latency import Latency, measure_latency
from trainables.models.file import read_model
from trainables.runtime import CUDA, available_providers, module_network, open_model
from trainables.train import read_config
from trainables.trial import CONFIG_FILE, MODEL_FILE

TOLERANCE = 0.001
"""The most by which the mIoU of an exported file may differ from the search's."""
SUFFIX: dict[ExportFormat, str] = {
    "packed": ".safetensors",
    "onnx": ".onnx",
    "onnx-int8": "-int8.onnx",
}
EXAMPLES = """formats:
  packed      the search's own file: bit-packed codes in safetensors, the smallest
  onnx        small: weights stored in INT2, INT4 or INT8; ONNX Runtime 1.31 or newer
  onnx-int8   fast: weights widened to INT8, integer convolutions in ONNX Runtime
              (in your own program on an x86 processor without VNNI, set the session option
              session.x64quantprecision to 1: 8-bit products overflow there otherwise)

exit status: 0 exported; 1 a file failed its checks and was deleted; 2 bad input.
"""


@dataclass(frozen=True)
class Choice:
    """A point of a front to export, and why it is this one."""

    trial_id: str
    miou: float
    size_bytes: int
    why: str


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
        type=as_path,
        metavar="STUDY",
        help="the study's folder, such as studies/qkd-shapes",
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
    study = read_study_file(arguments.study, "STUDY")
    points = read_points(arguments.study)
    data = validation_data(study, arguments.study)
    if arguments.max_size is not None and arguments.format != "packed":
        points = [
            Exporter(study, arguments.study, data, point, arguments.format).sized()
            for point in points
        ]
    chosen = choose(points, arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    failures = 0
    for choice in chosen:
        print(f"trial {choice.trial_id}: {describe(choice)}: {choice.why}", flush=True)
        try:
            exporter = Exporter(study, arguments.study, data, choice, arguments.format)
            exporter.export(arguments.out)
        except (ExportFailed, ValueError, OSError) as error:
            if len(chosen) == 1:
                raise
            print(f"error: trial {choice.trial_id}: {error}", file=sys.stderr)
            failures += 1
    if failures:
        raise ExportFailed(f"{failures} of {len(chosen)} points were not exported")


def read_points(folder: Path) -> list[Choice]:
    """The points of a study's front with the sizes of their packed files, smallest first.

    Raises:
        ValueError: no trial of the study has finished.
    """
    path = folder / "front.parquet"
    if not path.is_file():
        raise ValueError(f"a study must have ended or been interrupted, but there is no {path}")
    try:
        rows = pq.read_table(path).to_pylist()
        points = [Choice(row["trial_id"], row["miou"], row["size_bytes"], "asked") for row in rows]
    except (pa.ArrowInvalid, KeyError) as error:
        raise ValueError(f"{path} must be the table of a front, but it lacks {error}") from error
    if not points:
        raise ValueError(f"a study must have finished trials to export, but {folder} has none")
    return sorted(points, key=lambda point: point.size_bytes)


def choose(points: list[Choice], arguments: argparse.Namespace) -> list[Choice]:
    """The points that the command line asks for.

    Raises:
        ValueError: there is none; the message says how close the nearest comes.
    """
    if arguments.all:
        return points
    if arguments.trial is not None:
        return [named(points, arguments.trial)]
    max_size = None if arguments.max_size is None else parse_size(arguments.max_size)
    return [best(points, max_size, arguments.min_miou)]


def named(points: Sequence[Choice], trial_id: str) -> Choice:
    for point in points:
        if point.trial_id == trial_id:
            return point
    known = ", ".join(point.trial_id for point in points)
    raise ValueError(f"--trial must be a point of the front ({known}), but got {trial_id}")


def best(points: Sequence[Choice], max_size: int | None, min_miou: float | None) -> Choice:
    """Within a size the greatest mIoU; without one the smallest file that is good enough."""
    if min_miou is not None and not 0 <= min_miou <= 1:
        raise ValueError(f"--min-miou must be a share from 0 to 1, but got {min_miou}")
    small = [point for point in points if max_size is None or point.size_bytes <= max_size]
    if not small:
        nearest = min(points, key=lambda point: point.size_bytes)
        raise ValueError(
            f"--max-size must admit a point of the front, but the smallest is {describe(nearest)} "
            f"(trial {nearest.trial_id}) and the limit is {max_size:,} bytes"
        )
    good = [point for point in small if min_miou is None or point.miou >= min_miou]
    if not good:
        nearest = max(small, key=lambda point: point.miou)
        within = "" if max_size is None else f" within {max_size:,} bytes"
        raise ValueError(
            f"--min-miou must admit a point of the front, but the best{within} is "
            f"{describe(nearest)} (trial {nearest.trial_id}) and the limit is {min_miou:.4f}"
        )
    if max_size is None and min_miou is not None:
        smallest = min(good, key=lambda point: point.size_bytes)
        return replace(smallest, why=f"the smallest of mIoU >= {min_miou:g}")
    limit = "; no limit was given" if max_size is None else f" within {max_size:,} bytes"
    return replace(max(good, key=lambda point: point.miou), why=f"the greatest mIoU{limit}")


def describe(point: Choice) -> str:
    return f"mIoU {point.miou:.4f}, {human_size(point.size_bytes)}"


def validation_data(study: StudyFile, folder: Path) -> PackedData:
    """The data of a study, packed again where its pack is gone.

    Raises:
        ValueError: the data has changed since.
    """
    store = ArtifactStore(folder.resolve().parent / "artifacts")
    source = open_source(study.config.data, study.config.image_size, store.root)
    data = open_pack(pack(source, store).path)
    if data.digest != study.data_digest:
        raise ValueError(
            f"an export is checked on the study's data, but {study.config.data} has changed: it is "
            f"now {data.digest}, the study had {study.data_digest}"
        )
    return data


class Exporter:
    """Exports one point of a study's front."""

    def __init__(
        self, study: StudyFile, folder: Path, data: PackedData, choice: Choice, form: ExportFormat
    ) -> None:
        self.study, self.data, self.choice, self.form = study, data, choice, form
        self.source = folder / "models" / choice.trial_id / MODEL_FILE
        self.config = read_config(self.source.with_name(CONFIG_FILE))
        self.network = read_model(self.source)

    def export(self, out: Path) -> None:
        """Writes the file and its card.

        Raises:
            ExportFailed: the file does not do what the search measured; it is deleted.
        """
        path = out / f"{self.study.config.name}-{self.choice.trial_id}{SUFFIX[self.form]}"
        aside = path.with_name(f".unchecked-{path.name}")
        content = self.content()
        try:
            aside.write_bytes(content)
            self.check(aside, path, content)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    def sized(self) -> Choice:
        """The point with the size that its file will have."""
        return replace(self.choice, size_bytes=len(self.content()))

    def content(self) -> bytes:
        """The file's content."""
        if self.form == "packed":
            return self.source.read_bytes()
        import onnx

        from trainables.models.unet_onnx import to_onnx

        about = {"study": self.study.config.name, "trial": self.choice.trial_id}
        classes = {"classes": ",".join(self.data.class_names)}
        model = to_onnx(self.network, self.form, about | classes)
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ExportFailed(f"the ONNX checker refuses {self.source}: {error}") from error
        serialized: bytes = model.SerializeToString()
        return serialized

    def check(self, aside: Path, path: Path, content: bytes) -> None:
        """Runs the file on the validation split and writes the card of what it will be."""
        reference = module_network(self.network)
        try:
            agreement = compare(open_model(aside), reference, self.data)
        except ValueError as error:
            raise ExportFailed(str(error)) from error
        if abs(agreement.miou - self.choice.miou) > TOLERANCE:
            raise ExportFailed(
                f"{path.name} must have the search's mIoU {self.choice.miou:.4f} within "
                f"{TOLERANCE:g}, but has {agreement.miou:.4f}; it was deleted"
            )
        card = self.card(path, content, agreement, self.latencies(content))
        replace_file(card_file(path), card.model_dump_json(indent=1))
        speed = "".join(
            f", {latency.median_ms:.3g} ms on {latency.provider.removesuffix('ExecutionProvider')}"
            for latency in card.latency
        )
        share = agreement.changed_pixels / agreement.num_pixels
        print(
            f"{path}: {human_size(len(content))}, mIoU {agreement.miou:.4f}, "
            f"{agreement.changed_pixels} of {agreement.num_pixels} pixels changed "
            f"({share:.4%}){speed}",
            flush=True,
        )

    def latencies(self, content: bytes) -> tuple[Latency, ...]:
        """Of an ONNX file on the CPU, and on a GPU where ONNX Runtime has one."""
        if self.form == "packed":
            return ()
        height, width = self.data.height, self.data.width
        latencies = [measure_latency(content, height, width)]
        if CUDA in available_providers():
            try:
                latencies.append(measure_latency(content, height, width, CUDA))
            except ValueError as error:
                print(f"no latency on a GPU: {error}", file=sys.stderr)
        return tuple(latencies)

    def card(
        self, path: Path, content: bytes, agreement: Agreement, latency: tuple[Latency, ...]
    ) -> ExportCard:
        study = self.study
        return ExportCard(
            format=self.form,
            file=path.name,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            miou=agreement.miou,
            searched_miou=self.choice.miou,
            changed_pixels=agreement.changed_pixels,
            num_pixels=agreement.num_pixels,
            latency=latency,
            data=Path(study.config.data).name,
            data_digest=study.data_digest,
            classes=self.data.class_names,
            preprocessing=Preprocessing(longest_side=study.config.image_size),
            study=study.config.name,
            study_id=study.id,
            trial=self.choice.trial_id,
            config=self.config,
            versions=installed_versions(),
        )


if __name__ == "__main__":
    sys.exit(main())
