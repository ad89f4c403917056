"""Writes the report of a study: tables, plots, models of the front, MLflow's summary."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from search.analysis.diagnostics import compute_diagnostics
from search.analysis.diagnostics_plot import draw_diagnostics
from search.analysis.other_fronts import read_other_fronts
from search.analysis.page_data import PageContext
from search.analysis.report import draw_front
from search.analysis.study_pages import write_index
from search.analysis.tables import write_tables
from search.analysis.teacher_lead import weak_teacher_of_students
from search.core.pareto import mious_within, pareto_front, shared_span
from search.core.record import COST, LATENCY_DISTURBED, LATENCY_MS, Record, total_cost
from search.storage.cleanup import prune_study_folder
from search.storage.mirrored_studies import download_models
from search.storage.trials import read_phases, read_teacher_metrics, read_utilisation
from search.study.examples import draw_front_masks
from search.study.study import Study, read_records
from search.tracking.callbacks import run_with_timeout
from search.tracking.console import launcher
from search.tracking.mlflow import MlflowTracker, class_metrics
from trainables.config import TrialConfig
from trainables.core import terminal
from trainables.core.errors import NotExportable
from trainables.core.metrics import TeacherMetrics
from trainables.core.optional_dependencies import has_onnx
from trainables.core.terminal import track
from trainables.data.configs import MEASURED_ON

TRACKING_TIMEOUT_S = 600.0
"""Timeout for the delivery of the end of a study to MLflow."""
INTERRUPTED_TRACKING_TIMEOUT_S = 3.0
"""The same for an interrupted study: the user is waiting, and a resume delivers the rest."""


def tracking_timeout_s(interrupted: bool) -> float:
    """Timeout, in seconds, for the delivery of the remaining events to MLflow."""
    return INTERRUPTED_TRACKING_TIMEOUT_S if interrupted else TRACKING_TIMEOUT_S


def write_report(study: Study, tracking: MlflowTracker, interrupted: bool) -> list[Record]:
    """Writes tables, plots and MLflow's summary; gives the records with measured latencies."""
    config, objectives = study.config, study.objectives
    records, folder = read_measured_records(study), config.folder
    front = pareto_front(records, objectives)
    prune_study_folder(folder, records, objectives)
    download_models(folder)
    class_names, measured_on = study.data.class_names, MEASURED_ON[study.file.label_size]
    title = f"{config.name}: mIoU {measured_on} against model size"
    write_tables(records, folder, class_names, objectives)
    diagnostics = compute_diagnostics(
        records,
        study.optuna_study,
        shared_span(objectives),
        objectives,
        study.cost_model.commonest_miou,
    )
    draw_diagnostics(diagnostics, folder, f"{config.name}: the search")
    teacher = read_teacher_metrics(study.optuna_study)
    shown = None if interrupted else draw_front_masks(study, front)  # a user waits for the end
    context = PageContext(
        class_names,
        teacher,
        config.baselines,
        read_other_fronts(study.file),
        diagnostics,
        shlex.join([*launcher().split(), "python", "-m", "search.export", str(folder)]),
        *(shown or ()),
    )
    draw_front(records, folder, title, context, objectives)
    write_index(config.storage)
    seconds = sum(record.metrics.device_seconds for record in records if record.metrics)
    numbers = {
        "trials_complete": sum(record.state == "COMPLETE" for record in records),
        "front_size": len(front),
        "device_seconds": seconds,
        "least_miou": study.cost_model.least_miou,
        **({"best_miou": max(r.metrics.miou for r in front if r.metrics)} if front else {}),
        **{
            f"miou_within.{kilobytes:04d}KB": miou
            for kilobytes, miou in mious_within(records).items()
        },
        **diagnostics.metrics,
    }
    if (utilisation := read_utilisation(study.optuna_study)) is not None:
        numbers["utilisation"] = utilisation
    numbers |= dict(read_phases(study.optuna_study).numbers())
    if (cost := total_cost(records)) is not None:
        numbers[COST] = cost
    if teacher:
        numbers |= teacher_numbers(teacher, class_metrics(class_names))
        if warning := weak_teacher_of_students(teacher.val.miou, records):
            terminal.print_line(warning)
    if not tracking.is_behind:
        finish = partial(
            tracking.finish, records, study.file, numbers, diagnostics.steps, interrupted
        )
        tracking.is_behind = not run_with_timeout(finish, tracking_timeout_s(interrupted))
    if tracking.is_behind:
        delivers = f"--resume {config.name} delivers it"
        terminal.print_error(f"MLflow lacks part of the record, {delivers}")
    return records


def teacher_numbers(teacher: TeacherMetrics, names: Sequence[str]) -> dict[str, float]:
    """The scores of a teacher on both splits by name; `names` are those of the IoU of classes."""
    numbers: dict[str, float] = {}
    for prefix, split in (("teacher", teacher.val), ("teacher.train", teacher.train)):
        numbers[f"{prefix}.miou"] = split.miou
        numbers[f"{prefix}.classes_never_predicted"] = len(split.never_predicted)
        by_name = zip(names, split.class_iou, strict=True)
        numbers |= {f"{prefix}.{name}": iou for name, iou in by_name if iou is not None}
    return numbers


def read_measured_records(study: Study) -> list[Record]:
    """All trials, those of the table with a latency where it can be measured."""
    records = read_records(study)
    members = {record.trial_id for record in pareto_front(records, study.objectives)}
    members |= {r.trial_id for r in records if r.config and r.config.recipe.is_reference}
    shown = [r for r in records if r.trial_id in members and r.latency_ms is None]
    found = {
        record.trial_id: find_latency(study, record.config)
        for record in track(shown, "measuring latency")
        if record.config
    }
    return [
        replace(record, **found[record.trial_id]) if record.trial_id in found else record
        for record in records
    ]


def find_latency(study: Study, config: TrialConfig) -> dict[str, Any]:
    """The fields of a record; none without ONNX Runtime, or where a network cannot be exported."""
    if not has_onnx():
        return {}
    try:
        latency_ms = study.cost_model.latency_ms(config)
    except NotExportable:
        return {}
    disturbed = study.cost_model.is_disturbed(config)
    return {LATENCY_MS: latency_ms, LATENCY_DISTURBED: disturbed}
