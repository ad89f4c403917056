"""The record of one trial: kept in the Optuna trial, shown in every table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from search.halving import Arrival
from search.objectives import MIOU_AND_SIZE, Objective
from trainables.config import TrialConfig
from trainables.frozen import Leaf
from trainables.metrics import Metrics

State = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL"]
CONFIG, METRICS, REASON, RAY_ID = "config", "metrics", "reason", "ray_trial_id"
RUNGS, GAIN = "rungs", "expected_gain"
PREDICTED_SIZE, LATENCY_MS = "predicted_size_bytes", "latency_ms"
"""User attributes of an Optuna trial."""
INTERRUPTED = "interrupted"
"""The reason of a trial that a driver left unfinished, and whose settings are tried again."""


@dataclass(frozen=True)
class Record:
    """One trial; without `config` where the space failed, without `metrics` before an epoch."""

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


MEASURED = tuple(name for name in Metrics.model_fields if name not in ("epoch", "losses"))


def trial_name(number: int) -> str:
    """The trial's id, from Optuna's running number."""
    return f"{number:04d}"


def read_record(trial: FrozenTrial) -> Record:
    """The record that an Optuna trial carries."""
    attributes = trial.user_attrs
    config, metrics = attributes.get(CONFIG), attributes.get(METRICS)
    return Record(
        trial_id=trial_name(trial.number),
        state=read_state(trial.state),
        reason=attributes.get(REASON, ""),
        config=TrialConfig.model_validate(json.loads(config)) if config else None,
        metrics=Metrics.model_validate(json.loads(metrics)) if metrics else None,
        predicted_size_bytes=attributes.get(PREDICTED_SIZE),
        latency_ms=attributes.get(LATENCY_MS),
        params=trial.params,
        distributions=trial.distributions,
        ray_id=attributes.get(RAY_ID),
        ended_at=trial.datetime_complete,
        arrivals=read_arrivals(trial),
    )


def read_arrivals(trial: FrozenTrial) -> tuple[Arrival, ...]:
    """The rungs that a trial has reached, lowest first."""
    return tuple(
        Arrival(trial.user_attrs[RAY_ID], int(rung), place, tuple(losses), goes_on)
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
        case _:
            assert state == TrialState.RUNNING, state
            return "RUNNING"
