"""The card of a model of a front in MLflow, in Markdown."""

from pathlib import Path

from search.analysis.plot_layout import Point
from search.core.record import DISTURBED, Record
from search.storage.study_file import StudyFile
from search.tracking.run_content import escape_cell
from trainables.core.units import human_size
from trainables.data.configs import MEASURED_ON
from trainables.deploy.mlflow_loader import IMAGE, MASK
from trainables.models.model_file import MODEL_FILE

MODEL_CARD = "README.md"
"""The card among the files of a model."""


def model_card(record: Record, file: StudyFile) -> str:
    """What a model of the front is, in Markdown: scores, what it reads and gives, IoU by class."""
    metrics, config = record.metrics, record.config
    assert metrics
    assert config
    assert metrics.size_bytes
    size, student = human_size(metrics.size_bytes), config.student.describe()
    bits = Point(record.trial_id, config, metrics, metrics.size_bytes, True).bits
    # MLflow's table of versions shows some 30 characters
    short = f"{100 * metrics.miou:.1f} % mIoU, {size}, {student}, {bits} bits"
    rows = {
        "trial": f"{escape_cell(file.config.name)}/{record.trial_id}",
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
        escape_cell(short),
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
