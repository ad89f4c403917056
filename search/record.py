"""The record of one trial: kept in the Optuna trial, shown in every table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from search.halving import Arrival
from search.objectives import MIOU_AND_SIZE, Objective
from trainables.config import TrialConfig
from trainables.frozen import Leaf
from trainables.metrics import Metrics

State = Literal["RUNNING", "PAUSED", "COMPLETE", "PRUNED", "FAIL"]
"""PAUSED: begun, and the first to go on when the study is resumed."""
CONFIG, REASON, RAY_ID = "config", "reason", "ray_trial_id"
RUNGS, GAIN = "rungs", "expected_gain"
PREDICTED_SIZE, LATENCY_MS = "predicted_size_bytes", "latency_ms"
"""User attributes of an Optuna trial."""
PROPOSED_BY = "proposed_by"
"""The Optuna study's: all but its trials that decides what is proposed from here on."""
METRICS = "metrics."
"""What the attribute of each epoch's Metrics begins with; the epoch follows."""


@dataclass(frozen=True)
class Record:
    """One trial; without `config` where the space failed, without `metrics` before an epoch.

    `reports` holds what was reported after each epoch, as JSON.
    """

    trial_id: str
    state: State
    reason: str
    config: TrialConfig | None
    metrics: Metrics | None
    predicted_size_bytes: int | None = None
    latency_ms: float | None = None
    params: Mapping[str, Leaf] = field(default_factory=dict)
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    arrivals: tuple[Arrival, ...] = ()
    ray_id: str | None = None
    ended_at: datetime | None = None
    reports: Mapping[int, str] = field(default_factory=dict)

    @property
    def history(self) -> list[Metrics]:
        """What was reported after each epoch."""
        return [Metrics.model_validate_json(report) for report in self.reports.values()]

    def values(self, objectives: Sequence[Objective] = MIOU_AND_SIZE) -> tuple[float, ...] | None:
        """The values of `objectives` for a COMPLETE trial."""
        return self.measured(objectives) if self.state == "COMPLETE" else None

    def measured(self, objectives: Sequence[Objective]) -> tuple[float, ...]:
        """The values of `objectives` in the last report."""
        names = (objective.metric for objective in objectives)
        return tuple(
            float(getattr(self if name == LATENCY_MS else self.metrics, name)) for name in names
        )

    def row(self) -> dict[str, Leaf]:
        """The trial as one row of trials.parquet; "asked.": sampled, and resolved to others."""
        measured = self.metrics.model_dump() if self.metrics else {}
        leaves = self.config.leaves() if self.config else {}
        return {
            "trial_id": self.trial_id,
            "state": self.state,
            "reason": self.reason,
            "recipe": self.config.recipe.name if self.config else None,
            "config_digest": self.config.digest() if self.config else None,
            "epochs": self.metrics.epoch if self.metrics else 0,
            **{name: measured.get(name) for name in MEASURED},
            PREDICTED_SIZE: self.predicted_size_bytes,
            LATENCY_MS: self.latency_ms,
            **leaves,
            **{f"asked.{k}": v for k, v in self.params.items() if leaves.get(k) != v},
        }


UNLISTED = {"epoch", "time_ms", "losses", "model_sha256"}
"""Of Metrics, what tables have no column of that name for."""
MEASURED = tuple(name for name in Metrics.model_fields if name not in UNLISTED)


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
        arrivals=read_arrivals(trial),
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


def read_arrivals(trial: FrozenTrial) -> tuple[Arrival, ...]:
    """The rungs that a trial has reached, lowest first."""
    return tuple(
        Arrival(trial_name(trial.number), int(rung), place, tuple(losses), goes_on)
        for rung, (place, goes_on, losses) in sorted(
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
