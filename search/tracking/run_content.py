"""What MLflow says: constants of a study, the curve of its front, notes, cards."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mlflow.entities import Metric

from search.analysis.plot_layout import Point, plot_points
from search.core.objectives import Objective
from search.core.parameter_names import written
from search.core.pareto import best_within
from search.core.record import DISTURBED, DISTURBED_MARK, Record
from search.storage.study_file import StudyFile
from trainables.core.units import human_size
from trainables.data.configs import MEASURED_ON
from trainables.deploy.mlflow_loader import IMAGE, MASK
from trainables.models.model_file import MODEL_FILE

FRONT_MIOU, FRONT_SIZE = "front.miou", "front.size_kb"
"""The curve of a front, whose steps are ranks by size."""
STUDY_TAG, STUDY_ID_TAG = "paretoseg.study", "paretoseg.study_id"
TRIAL_TAG, KIND_TAG = "paretoseg.trial", "kind"
"""The trial that a run is of, or "study"; and which of the two it is of."""
FRONT_TAG = "front"
"""Whether a trial, or its model, is on the front of its study."""
PATH_TAG = "path."
"""Begins the tag with the full path of a parameter, after which comes its short name."""
MAX_NOTE = 8000
"""Characters of a note that MLflow keeps."""
MODEL_CARD = "README.md"
"""The card of a model, among its files."""
MORE = "\n\n(The rest is in the artifacts.)"


def constants(records: Sequence[Record]) -> dict[str, str]:
    """By path what the configurations of all trials have in common, and no space has sampled.

    A network that is compressed is left out: it is recorded as it came.
    """
    configs = [r.config for r in records if r.config and not r.config.recipe.is_reference]
    first, *others = [config.flatten() for config in configs] or [{}]
    sampled = {path for record in records for path in record.params}
    return {
        path: written(leaf)
        for path, leaf in first.items()
        if path not in sampled and all(path in o and o[path] == leaf for o in others)
    }


def front_curve(front: Sequence[Record]) -> list[Metric]:
    """mIoU and size of the members of a front, smallest first; a metric's step is the rank."""
    return [
        Metric(name, value, record.metrics.time_ms, rank)
        for rank, record in enumerate(front, start=1)
        if record.metrics and record.metrics.size_bytes
        for name, value in (
            (FRONT_MIOU, record.metrics.miou),
            (FRONT_SIZE, record.metrics.size_bytes / 1000),
        )
    ]


def best_tags(records: Sequence[Record]) -> dict[str, str]:
    """Tags that say which model is the best within each of some sizes."""
    return {
        best_tag(kilobytes): f"{100 * metrics.miou:.1f} % ({trial_id}, "
        f"{human_size(metrics.size_bytes or 0)})"
        for kilobytes, (trial_id, metrics) in best_within(records).items()
    }


def best_tag(kilobytes: int) -> str:
    return f"within {kilobytes} KB"


def front_note(
    records: Sequence[Record], objectives: Sequence[Objective], url_of: Callable[[str], str]
) -> str:
    """The front as a table in Markdown, each trial a link to `url_of` its id.

    MLflow shows the first lines, which therefore answer what the best model within a size is.
    """
    points = plot_points(records, objectives)
    shown = [point for point in points if point.is_named]
    if not shown:
        return "No trial has finished."
    latencies = {record.trial_id: record.written_latency for record in records}
    rows = [note_row(point, url_of(point.trial_id), latencies[point.trial_id]) for point in shown]
    is_marked = any(latencies[point.trial_id].endswith(DISTURBED_MARK) for point in shown)
    best = "; ".join(f"{name}: {value}" for name, value in best_tags(records).items())
    lines = [
        f"Best mIoU {best}." if best else "",
        "",
        "| trial | mIoU % | size | bits W/A | student | latency |",
        "|---|---|---|---|---|---|",
        *("| " + " | ".join(row) + " |" for row in rows),
        *(["", f"{escape_cell(DISTURBED_MARK)} {DISTURBED}"] if is_marked else ()),
    ]
    return "\n".join(lines)


def note_row(point: Point, url: str, latency: str) -> list[str]:
    """The cells of a point of the front."""
    return [
        f"[{point.label}]({url})",
        f"{point.y:.1f}",
        human_size(point.size_bytes),
        point.bits,
        escape_cell(point.config.student.describe()),
        escape_cell(latency),
    ]


def model_card(record: Record, file: StudyFile) -> str:
    """What a model of the front is, in Markdown: scores, what it reads and gives, IoU by class."""
    metrics, config = record.metrics, record.config
    assert metrics
    assert config
    assert metrics.size_bytes
    name, student = f"{file.config.name}/{record.trial_id}", config.student.describe()
    bits = Point(record.trial_id, config, metrics, metrics.size_bytes, True).bits
    short = (
        f"{100 * metrics.miou:.1f} % mIoU, {human_size(metrics.size_bytes)}, {student}, {bits} bits"
    )
    rows = {
        "mIoU": f"{100 * metrics.miou:.1f} % {MEASURED_ON[file.label_size]}",
        "file": f"{MODEL_FILE}, {metrics.size_bytes:,} bytes",
        "student": escape_cell(student),
        "recipe": config.recipe.name,
        "bits W/A": bits,
        "latency": "" if record.latency_ms is None else latency_of(record),
        "data": escape_cell(data_name(file)),
        "with": ", ".join(f"{name} {version}" for name, version in file.versions.items()),
    }
    lines = [
        escape_cell(f"{name}: {short}"),
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items() if value),
        "",
        f"It reads the column `{IMAGE}`, contents of image files, and gives the column `{MASK}`: "
        "for each image a PNG file of its own size with the index of the class of each pixel. The "
        f"network sees images with their longest side scaled to {file.config.image_size} pixels. "
        "The environment that serves it needs this project: `--env-manager local`.",
        "",
        "| index | class | IoU % |",
        "|---|---|---|",
    ]
    scores = record.class_iou or [None] * len(file.class_names)
    for index, (name, iou) in enumerate(zip(file.class_names, scores, strict=True)):
        score = "" if iou is None else f"{100 * iou:.1f}"
        lines.append(f"| {index} | {escape_cell(name)} | {score} |")
    return "\n".join(lines)


def latency_of(record: Record) -> str:
    """The latency in words."""
    disturbed = f", {DISTURBED}" if record.latency_disturbed else ""
    return f"{record.latency_ms:.3g} ms on one core{disturbed}"


def data_name(file: StudyFile) -> str:
    """The name of a study's data, without the folders above it."""
    return Path(file.config.data).name


def escape_cell(text: str) -> str:
    """A text as it is, for a cell of a table in Markdown."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>()#+!|~" else c for c in text)


def kind_of(trial: str) -> str:
    """What the run of a trial, or of "study", is of."""
    return "study" if trial == "study" else "trial"


def fit_note(text: str, longest: int = MAX_NOTE) -> str:
    """A note without the last of its lines where it has more characters than MLflow keeps."""
    if len(text) <= longest:
        return text
    return text[: text.rindex("\n", 0, longest - len(MORE))] + MORE
