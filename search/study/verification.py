"""Verifies that the records of a study agree: journal, tables, models, decisions and MLflow."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from search.core.config import StudyConfig
from search.core.objectives import Objective, named_objectives
from search.core.parameter_names import written_params
from search.core.record import LATENCY_DISTURBED, LATENCY_MS, Record
from search.core.tracking_uri import database_of
from search.storage.journal import read_journal
from search.storage.layout import FRONT_TABLE, MODELS, TRIALS_TABLE, model_folder
from search.storage.study_file import StudyFile
from search.storage.trials import read_asked_records
from search.study.recovery import replay_decisions
from search.tracking.mlflow import Run, class_metrics, read_runs
from trainables.core import terminal
from trainables.core.command_line import one_line
from trainables.core.config_base import Leaf
from trainables.core.files import hash_file
from trainables.core.mirror import is_mirrored
from trainables.core.progress import PROGRESS_FILE
from trainables.models.model_file import METRICS_FILE, MODEL_FILE, read_spec

Row = dict[str, Leaf]


class InconsistentStudy(Exception):
    """Records of a study disagree; each disagreement was printed."""


def print_errors(found: Iterable[str]) -> int:
    """Prints each error, and gives their number."""
    lines = list(found)
    for line in lines:
        terminal.print_error(f"error: {line}")
    return len(lines)


def violations(file: StudyFile, folder: Path, with_mlflow: bool = True) -> Iterator[str]:
    """A description of each inconsistency of a study that does not run."""
    objectives = named_objectives(file.config.objectives)
    study = read_journal(folder, file.config.name)
    records = read_asked_records(study)
    yield from check_records(records, objectives)
    yield from check_table(records, read_rows(folder / TRIALS_TABLE), file.class_names)
    yield from check_front(records, read_rows(folder / FRONT_TABLE), folder, objectives)
    yield from check_decisions(records, file.config)
    if with_mlflow:
        try:
            runs = read_runs(file.config.tracking_uri, file.id)
            yield from check_runs(records, runs, file.class_names)
        except ValueError as error:
            yield str(error)
    for path in folder.rglob(".*"):
        # A worker that was killed leaves its progress behind, also half-written.
        if path.is_file() and not path.name.lstrip(".").startswith(PROGRESS_FILE.lstrip(".")):
            yield f"{path} is half-written"


def is_store_elsewhere(file: StudyFile) -> bool:
    """Whether a study in an object store was run on another machine, whose MLflow store is a file.

    One that was run here has at least one run in the store that is here.
    """
    database = database_of(file.config.tracking_uri)
    if not is_mirrored(file.config.storage) or database is None:
        return False
    try:
        return not (database.is_file() and read_runs(file.config.tracking_uri, file.id))
    except ValueError:  # a damaged store, which is a violation
        return False


def read_rows(path: Path) -> dict[str, Row]:
    rows = pq.read_table(path).to_pylist() if path.is_file() else []
    return {row["trial_id"]: row for row in rows}


def check_records(records: Sequence[Record], objectives: Sequence[Objective]) -> Iterator[str]:
    seen: dict[str, str] = {}
    ray_ids: dict[str, str] = {}
    for record in records:
        if record.ray_id and record.ray_id in ray_ids:
            yield f"trials {ray_ids[record.ray_id]} and {record.trial_id} are one trial of Ray's"
        ray_ids[record.ray_id or ""] = record.trial_id
        if list(record.reports) != list(range(1, len(record.reports) + 1)):
            yield f"trial {record.trial_id} has epochs {list(record.reports)} in the journal"
        if record.state == "RUNNING":
            yield f"trial {record.trial_id} is RUNNING although the study is not"
        if record.config and record.ray_id:
            digest = record.config.digest()
            if digest in seen:
                yield f"trials {seen[digest]} and {record.trial_id} trained the same configuration"
            seen[digest] = record.trial_id
        if record.state == "COMPLETE":
            values = known_values(record, objectives)
            if values is None:
                yield f"trial {record.trial_id} is COMPLETE without all of its values"
            elif not all(math.isfinite(value) for value in values):
                yield f"trial {record.trial_id} is COMPLETE with values that are not finite"


def known_values(record: Record, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """The objectives of a COMPLETE trial; None also where the journal lacks one."""
    try:
        return record.values(objectives)
    except (AttributeError, TypeError):  # no report, or one that lacks an objective
        return None


def check_table(
    records: Sequence[Record], rows: dict[str, Row], class_names: Sequence[str]
) -> Iterator[str]:
    for record in records:
        row = rows.get(record.trial_id)
        if row is None:
            yield f"trial {record.trial_id} is not in {TRIALS_TABLE}"
            continue
        for name, value in record.row(class_names).items():
            if name not in (LATENCY_MS, LATENCY_DISTURBED) and row.get(name) not in (
                value,
                str(value),
            ):
                yield (
                    f"trial {record.trial_id} has {name} {row.get(name)} in {TRIALS_TABLE} and "
                    f"{value} in the journal"
                )
    for trial_id in rows.keys() - {record.trial_id for record in records}:
        yield f"trial {trial_id} of {TRIALS_TABLE} is not in the journal"


def check_front(
    records: Sequence[Record],
    rows: dict[str, Row],
    folder: Path,
    objectives: Sequence[Objective],
) -> Iterator[str]:
    if LATENCY_MS in {objective.metric for objective in objectives}:
        front = {r.trial_id: r for r in records if r.trial_id in rows and r.metrics}
    else:
        front = {record.trial_id: record for record in undominated(records, objectives)}
    if set(front) != set(rows):
        yield f"{FRONT_TABLE} holds {sorted(rows)}, the front is {sorted(front)}"
    for trial_id, record in front.items():
        assert record.metrics
        model = model_folder(folder, trial_id) / MODEL_FILE
        try:
            read_spec(model)
            told = json.loads(model.with_name(METRICS_FILE).read_text())[-1]["miou"]
            if model.stat().st_size != record.metrics.size_bytes:
                yield f"{model} has {model.stat().st_size} bytes, not {record.metrics.size_bytes}"
            elif record.metrics.model_sha256 not in (None, hash_file(model)):
                yield f"{model} is not the file that was measured"
            if told != record.metrics.miou:
                yield f"{model} has mIoU {told}, not {record.metrics.miou}"
        except (OSError, ValueError, LookupError, TypeError) as error:
            yield f"{model} cannot be read: {one_line(error)}"
    for path in (folder / MODELS).glob("*"):
        if path.name not in front:
            yield f"{path} is not on the front"


def undominated(records: Sequence[Record], objectives: Sequence[Objective]) -> list[Record]:
    """The front, computed by comparing all pairs; of equal trials, the first."""
    losses = {
        record.trial_id: [o.sign * v for o, v in zip(objectives, values, strict=True)]
        for record in records
        if (values := known_values(record, objectives)) is not None
    }

    def is_beaten(trial_id: str) -> bool:
        own = losses[trial_id]
        return any(
            all(a <= b for a, b in zip(other, own, strict=True))
            and (other != own or name < trial_id)
            for name, other in losses.items()
            if name != trial_id
        )

    return [
        record for record in records if record.trial_id in losses and not is_beaten(record.trial_id)
    ]


def check_decisions(records: Sequence[Record], config: StudyConfig) -> Iterator[str]:
    again = replay_decisions(config, records)
    if again is None:
        return
    log = sorted(
        (a for record in records for a in record.rung_decisions), key=lambda a: a.sequence_number
    )
    for decision in log:
        if again.rung_decisions[decision.rung].get(decision.trial_id) != decision:
            yield f"the decision on {decision.trial_id} at epoch {decision.rung} is another now"


def check_runs(
    records: Sequence[Record], runs: Sequence[Run], class_names: Sequence[str]
) -> Iterator[str]:
    by_trial: dict[str, list[Run]] = {}
    for run in runs:
        by_trial.setdefault(run.trial, []).append(run)
    for record in records:
        own = by_trial.pop(record.trial_id, [])
        if len(own) != 1:
            yield f"trial {record.trial_id} has {len(own)} runs in MLflow"
            continue
        (run,) = own
        if run.state != record.state:
            yield f"trial {record.trial_id} is {run.state} in MLflow and {record.state} here"
        if record.metrics:
            values = {"miou": record.metrics.miou, "size_bytes": record.metrics.size_bytes}
            if record.state != "PAUSED" and record.class_iou is not None:
                values |= dict(zip(class_metrics(class_names), record.class_iou, strict=True))
            for name, value in values.items():
                if run.metrics.get(name) != value:
                    yield f"trial {record.trial_id} has {name} {run.metrics.get(name)} in MLflow"
        params = written_params(record.params).items()
        leaves = record.config.flatten() if record.config else {}
        older = {(name, str(leaf)) for name, leaf in leaves.items()}  # what version 0.2 logged
        said = run.params.items()
        if said - params - older or not (params <= said or older <= said):
            yield f"trial {record.trial_id} has other parameters in MLflow"
        if list(run.epochs) != list(record.reports):
            yield f"trial {record.trial_id} has epochs {list(run.epochs)} in MLflow"
    for trial_id in by_trial:
        yield f"trial {trial_id} of MLflow is not in the journal"
