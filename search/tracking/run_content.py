"""What runs say in MLflow: constants of a study, the curve of its front, a note."""

from collections.abc import Callable, Sequence

from mlflow.entities import Metric

from search.analysis.plot_layout import Point, plot_points
from search.core.objectives import Objective
from search.core.parameter_names import written
from search.core.pareto import best_within
from search.core.record import DISTURBED, DISTURBED_MARK, Record
from trainables.core.units import human_size

FRONT_MIOU, FRONT_SIZE = "front.miou", "front.size_kb"
"""The curve of a front, whose steps are ranks by size."""
STUDY_TAG, STUDY_ID_TAG = "paretoseg.study", "paretoseg.study_id"
TRIAL_TAG, KIND_TAG = "paretoseg.trial", "kind"
"""The trial that a run is of, or "study"; and which of the two it is of."""
FRONT_TAG = "front"
"""Whether a trial, or its model, is on the front of its study."""
PATH_TAG = "path."
"""Begins the tag with the full path of a parameter, after which comes its short name."""
LATENCY_TAG = "latency"
MAX_NOTE = 8000
"""Characters of a note that MLflow keeps."""
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


def latency_tags(record: Record) -> dict[str, str]:
    """A tag that says that the latency was measured beside other work, where it was."""
    return {LATENCY_TAG: DISTURBED} if record.latency_disturbed else {}


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
