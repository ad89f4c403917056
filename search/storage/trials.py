"""Reads and writes the records of trials as user attributes of Optuna trials."""

import json

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.core.record import LATENCY_MS, PREDICTED_SIZE, Record, RungDecision, State
from search.storage.optuna_storage import set_trial_attribute, set_trial_state
from trainables.config import TrialConfig
from trainables.core.metrics import Metrics

CONFIG, REASON, RAY_ID = "config", "reason", "ray_trial_id"
RUNGS, ACQUISITION_VALUE = "rungs", "expected_gain"
PROPOSED_BY = "proposed_by"
"""The Optuna study's: all but its trials that decides what is proposed from here on."""
METRICS = "metrics."
"""What the attribute of each epoch's Metrics begins with; the epoch follows."""


def trial_name(number: int) -> str:
    """The trial's id, from Optuna's running number."""
    return f"{number:04d}"


def trial_number(name: str) -> int:
    """The inverse of `trial_name`."""
    return int(name)


def asked_trials(study: optuna.Study) -> list[FrozenTrial]:
    """All trials that were asked for, but not those that only wait to be."""
    trials = study.get_trials(deepcopy=False)
    return [t for t in trials if t.state != TrialState.WAITING or RAY_ID in t.user_attrs]


def record_of(study: optuna.Study, number: int) -> Record:
    """The record of one trial as it is now."""
    return read_record(study.get_trials(deepcopy=False)[number])


def metrics_key(epoch: int) -> str:
    """The attribute of an epoch's Metrics."""
    return f"{METRICS}{epoch}"


def read_record(trial: FrozenTrial) -> Record:
    """The record that an Optuna trial carries."""
    attributes = trial.user_attrs
    config, reports = attributes.get(CONFIG), read_reports(trial)
    metrics = reports[max(reports)] if reports else None
    return Record(
        trial_id=trial_name(trial.number),
        state=read_state(trial.state),
        reason=read_reason(trial),
        config=TrialConfig.model_validate(json.loads(config)) if config else None,
        metrics=Metrics.model_validate_json(metrics) if metrics else None,
        predicted_size_bytes=attributes.get(PREDICTED_SIZE),
        latency_ms=attributes.get(LATENCY_MS),
        params=trial.params,
        distributions=trial.distributions,
        ray_id=attributes.get(RAY_ID),
        ended_at=trial.datetime_complete,
        rung_decisions=read_decisions(trial),
        reports=reports,
    )


def read_reason(trial: FrozenTrial) -> str:
    """Why a trial was not trained to its end; else ""."""
    return str(trial.user_attrs.get(REASON, ""))


def read_reports(trial: FrozenTrial) -> dict[int, str]:
    """What a trial reported by epoch, the first first."""
    texts = {
        int(name.removeprefix(METRICS)): text
        for name, text in trial.user_attrs.items()
        if name.startswith(METRICS)
    }
    return dict(sorted(texts.items()))


def read_decisions(trial: FrozenTrial) -> tuple[RungDecision, ...]:
    """The rungs that a trial has reached, lowest first."""
    return tuple(
        RungDecision(trial_name(trial.number), int(rung), place, tuple(losses), promoted)
        for rung, (place, promoted, losses) in sorted(
            trial.user_attrs.get(RUNGS, {}).items(), key=lambda item: int(item[0])
        )
    )


def read_state(state: TrialState) -> State:
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


def pause(study: optuna.Study, number: int) -> None:
    """Puts a RUNNING trial back into the queue as it is: it is the next that is asked."""
    set_trial_state(study, number, TrialState.WAITING)


def record_decision(study: optuna.Study, decision: RungDecision) -> None:
    """Stores that a trial has reached a rung."""
    number = trial_number(decision.trial_id)
    rungs = {
        str(each.rung): [each.place, each.promoted, list(each.minimized_values)]
        for each in (*record_of(study, number).rung_decisions, decision)
    }
    set_trial_attribute(study, number, RUNGS, rungs)


def why_stopped(record: Record) -> str:
    """In words, why a trial was stopped before its last epoch."""
    if record.rung_decisions and not record.rung_decisions[-1].promoted:
        return f"stopped after epoch {record.rung_decisions[-1].rung}: others promise more"
    return "stopped before its last epoch"
