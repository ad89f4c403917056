"""Recovers the trials of a study whose driver has died, so that the next driver continues."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.trial import TrialState
from pydantic import JsonValue

from search.algorithms.observations import TrialHistory
from search.algorithms.successive_halving import SuccessiveHalving, rung_epochs
from search.core.config import StudyConfig
from search.core.objectives import Objective
from search.core.record import Record
from search.storage.optuna_storage import set_trial_attribute
from search.storage.study_file import STUDY_FILE, StudyFile, read_study_file
from search.storage.trials import (
    REASON,
    pause,
    read_record,
    record_decision,
    record_of,
    why_stopped,
)
from search.study.cost_model import CostModel
from trainables.core.terminal import track

Conditions = Mapping[str, JsonValue] | None
"""What latencies were measured under, beside the network; None: that is not known."""


def recover(
    study: optuna.Study,
    halving: SuccessiveHalving | None,
    history: TrialHistory,
    objectives: Sequence[Objective],
) -> None:
    """Ends the trials that had come to their end, and queues the others that were RUNNING.

    `halving` has replayed the journal; what the dead driver would have asked it next is asked now.
    """
    history.update_all(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        record = read_record(trial)
        if halving and record.metrics and record.trial_id in history.observations:
            losses = history.minimized_values(record.trial_id, record.metrics)
            if decision := halving.report(record.trial_id, record.metrics.epoch, losses):
                record_decision(study, decision)
                record = record_of(study, trial.number)
        if record.metrics and record.metrics.finished:
            study.tell(trial.number, record.measured(objectives), TrialState.COMPLETE)
        elif record.rung_decisions and not record.rung_decisions[-1].promoted:
            set_trial_attribute(study, trial.number, REASON, why_stopped(record))
            study.tell(trial.number, state=TrialState.PRUNED)
        else:
            pause(study, trial.number)


def replay_decisions(config: StudyConfig, records: Iterable[Record]) -> SuccessiveHalving | None:
    """What stops trials, with all that it has decided so far; None: nothing does."""
    if config.scheduler == "none":
        return None
    rungs = rung_epochs(config.epochs, config.grace_epochs, config.reduction)
    halving = SuccessiveHalving(rungs, config.epochs, config.reduction)
    halving.replay(decision for record in records for decision in record.rung_decisions)
    return halving


def with_latencies_of_here(
    records: Sequence[Record], cost_model: CostModel, measured_under: Conditions
) -> list[Record]:
    """The records with the latencies that their students have on this machine at this image size.

    Recorded latencies are taken over if all conditions are the same. Others are measured again, of
    trials that were launched; the artifact store has those that were measured here before. Nothing
    changes where the study asks for no latency.
    """
    if not cost_model.config.wants_latency:
        return list(records)
    latencies, latency_key = cost_model.latencies, cost_model.latency_key
    if measured_under == cost_model.latency_conditions():
        for record in records:
            if record.config and record.latency_ms is not None:
                latencies[latency_key(record.config)] = record.latency_ms
    launched = [record.config for record in records if record.config and record.ray_id]
    if unknown := [config for config in launched if latency_key(config) not in latencies]:
        for config in track(unknown, "measuring latency"):
            cost_model.latency_ms(config)
    return [
        replace(record, latency_ms=cost_model.latency_ms(record.config))
        if record.config and record.ray_id
        else record
        for record in records
    ]


def shared_conditions(known: StudyFile | None, now: Conditions) -> Conditions:
    """What all latencies of a study are measured under that goes on now, or begins.

    Once it has gone on elsewhere they differ, and no later driver takes them over.
    """
    return now if known is None or known.latency_conditions == now else None


def read_conditions(storage: Path, name: str | None, num_classes: int) -> Conditions:
    """What all latencies of an earlier study were measured under; None with other classes, too."""
    if name is None or not (storage / name / STUDY_FILE).is_file():
        return None
    earlier = read_study_file(storage / name, "--warm-start")
    return earlier.latency_conditions if len(earlier.class_names) == num_classes else None
