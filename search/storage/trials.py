"""Reads and writes the records of trials as user attributes of Optuna trials.

Functions that change a trial return its new record, so that it need not be read again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.core.phase import Phase, PhaseTimes
from search.core.record import (
    LATENCY_DISTURBED,
    LATENCY_MS,
    PREDICTED_SIZE,
    Record,
    RecordState,
    RungDecision,
)
from search.storage.optuna_storage import set_trial_attribute, set_trial_state
from trainables.config import TrialConfig
from trainables.core.metrics import Metrics, TeacherMetrics

CONFIG, REASON, RAY_ID = "config", "reason", "ray_trial_id"
RUNGS, ACQUISITION_VALUE = "rungs", "expected_gain"
OF_BATCH = "of_batch"
"""Attribute of a trial that was proposed together with one before it."""
PRICE = "price_per_hour"
PROPOSED_BY = "proposed_by"
"""Attribute of the Optuna study: what determines proposals besides its trials."""
TEACHER_METRICS = "teacher_metrics"
"""Attribute of the Optuna study: the TeacherMetrics of its teacher."""
DEVICE_TIME = "device_time"
"""Attribute of the Optuna study: reserved and offered seconds of its devices while trials ran."""
PHASES, FIRST_STEP = "phases", "seconds_to_first_step"
"""Attributes of the Optuna study: its PhaseTimes."""
SENSITIVITIES = "sensitivities"
"""Attribute of the Optuna study: where the sensitivities of its students' layers are kept."""
OTHER_SEED_PREFIX = "other_seed_miou."
"""Prefix of the attribute of the Optuna study with the mIoU of a trial that was trained again with
another seed; its id follows."""
METRICS_PREFIX = "metrics."
"""Prefix of the attribute of an epoch's Metrics; the epoch follows."""


def trial_name(number: int) -> str:
    """The trial's id, from Optuna's trial number."""
    return f"{number:04d}"


def trial_number(name: str) -> int:
    """The inverse of `trial_name`."""
    return int(name)


def asked_trials(study: optuna.Study) -> list[FrozenTrial]:
    """All trials that were asked for, without those that are only enqueued."""
    trials = study.get_trials(deepcopy=False)
    return [t for t in trials if t.state != TrialState.WAITING or RAY_ID in t.user_attrs]


def read_asked_records(study: optuna.Study) -> list[Record]:
    """The records of all trials that were asked for, with the mIoU of those trained again."""
    records = [read_record(trial) for trial in asked_trials(study)]
    known = study.user_attrs
    return [
        replace(record, other_seed_miou=known.get(OTHER_SEED_PREFIX + record.trial_id))
        for record in records
    ]


def store_other_seed(study: optuna.Study, trial_id: str, miou: float) -> None:
    """Stores the mIoU of a trial that was trained again with another seed."""
    study.set_user_attr(OTHER_SEED_PREFIX + trial_id, miou)


def record_of(study: optuna.Study, number: int) -> Record:
    """The record of one trial as it is now."""
    return read_record(study.get_trials(deepcopy=False)[number])


def metrics_key(epoch: int) -> str:
    """The attribute of an epoch's Metrics."""
    return f"{METRICS_PREFIX}{epoch}"


def read_record(trial: FrozenTrial) -> Record:
    """The record stored in an Optuna trial."""
    attributes = trial.user_attrs
    reports = read_reports(trial)
    return Record(
        trial_id=trial_name(trial.number),
        state=read_state(trial.state),
        reason=read_reason(trial),
        config=read_trial_config(attributes),
        metrics=reports[max(reports)] if reports else None,
        predicted_size_bytes=attributes.get(PREDICTED_SIZE),
        latency_ms=attributes.get(LATENCY_MS),
        latency_disturbed=attributes.get(LATENCY_DISTURBED, False),
        price_per_hour=attributes.get(PRICE),
        params=trial.params,
        distributions=trial.distributions,
        ray_id=attributes.get(RAY_ID),
        ended_at=trial.datetime_complete,
        rung_decisions=read_decisions(trial),
        reports=reports,
    )


def read_trial_config(attributes: Mapping[str, Any]) -> TrialConfig | None:
    """The configuration in the attributes of a trial, if the space gave one."""
    text = attributes.get(CONFIG)
    return TrialConfig.model_validate(json.loads(text)) if text else None


def read_reason(trial: FrozenTrial) -> str:
    """The reason why a trial was not trained to its end; else ""."""
    return str(trial.user_attrs.get(REASON, ""))


def read_reports(trial: FrozenTrial) -> dict[int, Metrics]:
    """The Metrics of a trial by epoch, in the order of epochs."""
    reports = {
        int(name.removeprefix(METRICS_PREFIX)): Metrics.model_validate_json(text)
        for name, text in trial.user_attrs.items()
        if name.startswith(METRICS_PREFIX)
    }
    return dict(sorted(reports.items()))


def read_decisions(trial: FrozenTrial) -> tuple[RungDecision, ...]:
    """The decisions on a trial at the rungs that it has reached, lowest rung first."""
    return tuple(
        RungDecision(trial_name(trial.number), int(rung), number, tuple(values), promoted)
        for rung, (number, promoted, values) in sorted(
            trial.user_attrs.get(RUNGS, {}).items(), key=lambda item: int(item[0])
        )
    )


def read_state(state: TrialState) -> RecordState:
    match state:
        case TrialState.COMPLETE:
            return "COMPLETE"
        case TrialState.PRUNED:
            return "PRUNED"
        case TrialState.FAIL:
            return "FAIL"
        case TrialState.WAITING:
            return "PAUSED"
        case _:
            assert state == TrialState.RUNNING, state
            return "RUNNING"


def store_config(trial: optuna.Trial, config: TrialConfig) -> None:
    """Stores the configuration of a trial that was asked for."""
    trial.set_user_attr(CONFIG, config.model_dump_json())


def store_ray_id(study: optuna.Study, record: Record, ray_id: str) -> Record:
    """Stores Ray's id of a trial."""
    set_attribute(study, record, RAY_ID, ray_id)
    return replace(record, ray_id=ray_id)


def store_price(study: optuna.Study, record: Record, price_per_hour: float) -> Record:
    """Stores what an hour of a trial costs where it runs now."""
    if price_per_hour == record.price_per_hour:
        return record
    set_attribute(study, record, PRICE, price_per_hour)
    return replace(record, price_per_hour=price_per_hour)


def store_metrics(study: optuna.Study, record: Record, metrics: Metrics) -> Record:
    """Stores the Metrics that a trial has reported after an epoch."""
    set_attribute(study, record, metrics_key(metrics.epoch), metrics.model_dump_json())
    return replace(record, metrics=metrics, reports={**record.reports, metrics.epoch: metrics})


def store_decision(study: optuna.Study, record: Record, decision: RungDecision) -> Record:
    """Stores the decision on a trial at a rung."""
    by_rung = {each.rung: each for each in (*record.rung_decisions, decision)}
    decisions = tuple(by_rung[rung] for rung in sorted(by_rung))
    rungs = {
        str(each.rung): [each.sequence_number, each.promoted, list(each.minimized_values)]
        for each in decisions
    }
    set_attribute(study, record, RUNGS, rungs)
    return replace(record, rung_decisions=decisions)


def store_teacher_metrics(study: optuna.Study, metrics: TeacherMetrics) -> None:
    """Stores the metrics of the study's teacher."""
    if read_teacher_metrics(study) != metrics:
        study.set_user_attr(TEACHER_METRICS, metrics.model_dump_json())


def read_teacher_metrics(study: optuna.Study) -> TeacherMetrics | None:
    """The metrics of the study's teacher; None without one, and before it is measured."""
    text = study.user_attrs.get(TEACHER_METRICS)
    return TeacherMetrics.model_validate_json(text) if text else None


def add_device_time(study: optuna.Study, used_s: float, offered_s: float) -> None:
    """Adds to the seconds of devices that were reserved, and that there were, while trials ran."""
    before = study.user_attrs.get(DEVICE_TIME, (0.0, 0.0))
    study.set_user_attr(DEVICE_TIME, [before[0] + used_s, before[1] + offered_s])


def read_utilisation(study: optuna.Study) -> float | None:
    """The share of the devices' time that was reserved; None where it was not measured."""
    used_s, offered_s = study.user_attrs.get(DEVICE_TIME, (0.0, 0.0))
    return used_s / offered_s if offered_s else None


def store_phases(study: optuna.Study, before: PhaseTimes, times: PhaseTimes) -> None:
    """Stores the phases of the drivers `before` together with those of this one."""
    phases = dict(before.phases)
    for name, phase in times.phases.items():
        phases[name] = phases.get(name, Phase()).plus(phase)
    study.set_user_attr(PHASES, {name: list(phase) for name, phase in phases.items()})
    study.set_user_attr(FIRST_STEP, times.first_step_s)


def read_phases(study: optuna.Study) -> PhaseTimes:
    """The phases of all drivers; none of a study of an earlier version."""
    phases = study.user_attrs.get(PHASES, {})
    first = study.user_attrs.get(FIRST_STEP)
    return PhaseTimes({name: Phase(*phase) for name, phase in phases.items()}, first)


def store_sensitivities(study: optuna.Study, files: Mapping[str, str]) -> None:
    """Stores where sensitivities are kept: paths in the artifact store by digests of students."""
    if read_sensitivities(study) != files:
        study.set_user_attr(SENSITIVITIES, dict(files))


def read_sensitivities(study: optuna.Study) -> dict[str, str]:
    """The same; empty for a study that an earlier version began, and where none is needed."""
    return dict(study.user_attrs.get(SENSITIVITIES, {}))


def pause_trial(study: optuna.Study, record: Record) -> Record:
    """Enqueues a RUNNING trial again, unchanged, so that it is asked for next."""
    waiting = TrialState.WAITING
    set_trial_state(study, trial_number(record.trial_id), waiting)
    return replace(record, state=read_state(waiting))


def end_trial(
    study: optuna.Study,
    record: Record,
    state: TrialState,
    reason: str = "",
    values: Sequence[float] | None = None,
) -> Record:
    """Tells Optuna the end of a trial: with values if it is COMPLETE, else with a reason."""
    if reason:
        set_attribute(study, record, REASON, reason)
    told = study.tell(trial_number(record.trial_id), values, state)
    return replace(record, state=read_state(state), reason=reason, ended_at=told.datetime_complete)


def set_attribute(study: optuna.Study, record: Record, name: str, value: object) -> None:
    """Stores a user attribute of a trial that is not finished."""
    set_trial_attribute(study, trial_number(record.trial_id), name, value)


def why_stopped(record: Record) -> str:
    """A text that says why a trial was stopped before its last epoch."""
    if record.rung_decisions and not record.rung_decisions[-1].promoted:
        return f"stopped after epoch {record.rung_decisions[-1].rung}: others promise more"
    return "stopped before its last epoch"
