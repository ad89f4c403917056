"""The record of one trial, from which tables, plots and MLflow are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from optuna.distributions import BaseDistribution

from search.core.objectives import MIOU_AND_SIZE, Objective
from trainables.config import TrialConfig
from trainables.core.config_base import Leaf
from trainables.core.metrics import Metrics


@dataclass(frozen=True)
class RungDecision:
    """The decision on one trial at a rung or at its end, numbered in the order of decisions."""

    trial_id: str
    rung: int
    sequence_number: int
    minimized_values: tuple[float, ...]
    promoted: bool


RecordState = Literal["RUNNING", "PAUSED", "COMPLETE", "PRUNED", "FAIL"]
"""PAUSED: started, and among the first to continue when the study is resumed."""
PREDICTED_SIZE, LATENCY_MS = "predicted_size_bytes", "latency_ms"
LATENCY_DISTURBED = "latency_disturbed"
"""User attributes of an Optuna trial."""
DISTURBED_MARK, DISTURBED = "*", "measured beside other work"
"""What marks a latency of `latency_disturbed`, and what the mark means."""
OTHER_SEED_MIOU = "other_seed_miou"
"""The column of the mIoU of a trial that was trained again."""
COST = "cost"
"""The column of what a trial has cost."""
HOUR_S = 3600


@dataclass(frozen=True)
class Record:
    """One trial; `config` is None where the space failed, `metrics` before the first report.

    `reports` holds the metrics that were reported, by epoch.
    """

    trial_id: str
    state: RecordState
    reason: str
    config: TrialConfig | None
    metrics: Metrics | None
    predicted_size_bytes: int | None = None
    latency_ms: float | None = None
    latency_disturbed: bool = False
    """Whether other processes used more than a quarter of a core while it was measured."""
    other_seed_miou: float | None = None
    price_per_hour: float | None = None
    """Of the share of a node that it runs on, where that is known."""
    params: Mapping[str, Leaf] = field(default_factory=dict)
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    rung_decisions: tuple[RungDecision, ...] = ()
    ray_id: str | None = None
    ended_at: datetime | None = None
    reports: Mapping[int, Metrics] = field(default_factory=dict)

    @property
    def written_latency(self) -> str:
        """The latency for a table, such as "1.75 ms", marked where it was disturbed; or ""."""
        if self.latency_ms is None:
            return ""
        return f"{self.latency_ms:.3g} ms{f' {DISTURBED_MARK}' if self.latency_disturbed else ''}"

    @property
    def cost(self) -> float | None:
        """What its training has cost so far, without the student that it starts from."""
        if self.price_per_hour is None or self.metrics is None:
            return None
        return self.price_per_hour * self.metrics.device_seconds / HOUR_S

    @property
    def history(self) -> list[Metrics]:
        """The metrics reported after each epoch."""
        return list(self.reports.values())

    def values(self, objectives: Sequence[Objective] = MIOU_AND_SIZE) -> tuple[float, ...] | None:
        """The values of `objectives` for a COMPLETE trial."""
        return self.measured(objectives) if self.state == "COMPLETE" else None

    def measured(self, objectives: Sequence[Objective]) -> tuple[float, ...]:
        """The values of `objectives` in the last report."""
        names = (objective.metric for objective in objectives)
        return tuple(
            float(getattr(self if name == LATENCY_MS else self.metrics, name)) for name in names
        )

    @property
    def class_iou(self) -> tuple[float | None, ...] | None:
        """The IoU of each class in the last report; None before it, and of older versions."""
        return self.metrics.class_iou if self.metrics else None

    def row(self, class_names: Sequence[str]) -> dict[str, Leaf]:
        """The trial as one row of trials.parquet.

        `class_names` are those of the data, each of which has a column for its IoU. Columns that
        begin with "asked." hold sampled values that differ from the configuration's.
        """
        measured = self.metrics.model_dump() if self.metrics else {}
        leaves = self.config.flatten() if self.config else {}
        names = class_columns(class_names)
        return {
            "trial_id": self.trial_id,
            "state": self.state,
            "reason": self.reason,
            "recipe": self.config.recipe.name if self.config else None,
            "config_digest": self.config.digest() if self.config else None,
            "epochs": self.metrics.epoch if self.metrics else 0,
            **{name: measured.get(name) for name in TABLE_METRICS},
            PREDICTED_SIZE: self.predicted_size_bytes,
            LATENCY_MS: self.latency_ms,
            LATENCY_DISTURBED: self.latency_disturbed if self.latency_ms is not None else None,
            OTHER_SEED_MIOU: self.other_seed_miou,
            COST: self.cost,
            **dict(zip(names, self.class_iou or [None] * len(names), strict=True)),
            **leaves,
            **{f"asked.{k}": v for k, v in self.params.items() if leaves.get(k) != v},
        }


def total_cost(records: Sequence[Record]) -> float | None:
    """What trials have cost, the students that they start from included; None: not known of all.

    A student that several trials start from was trained once.
    """
    costs = [record.cost for record in records if record.metrics]
    starts = {
        start.digest(): record.price_per_hour * record.metrics.start_seconds / HOUR_S
        for record in records
        if record.price_per_hour is not None and record.metrics and record.config
        if (start := record.config.start) is not None
    }
    known = [cost for cost in costs if cost is not None]
    return sum(known) + sum(starts.values()) if known and len(known) == len(costs) else None


def class_columns(class_names: Sequence[str]) -> list[str]:
    """The columns of tables with the IoU of each class."""
    return [f"iou.{name}" for name in class_names]


NON_TABLE_FIELDS = {"epoch", "time_ms", "losses", "model_sha256", "class_iou"}
"""Fields of Metrics that have no column of that name in tables."""
TABLE_METRICS = tuple(name for name in Metrics.model_fields if name not in NON_TABLE_FIELDS)
