"""Diagnostics of a search: hypervolume over time, unfinished work, parameter importances."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from search.core.objectives import Objective
from search.core.pareto import Points, hypervolume, pareto_front
from search.core.record import Record

MIN_TRIALS = 24
"""The fewest finished trials from which importances are computed; fewer would give noise."""


@dataclass(frozen=True)
class HypervolumePoint:
    """The hypervolume once a trial had finished, and the device seconds spent until then."""

    device_seconds: float
    hypervolume: float
    time_ms: int


def unfinished_share(records: Sequence[Record]) -> float:
    """The share of the device seconds that was spent on trials that did not finish."""
    seconds = {True: 0.0, False: 0.0}
    for record in records:
        if record.metrics:
            seconds[record.state == "COMPLETE"] += record.metrics.device_seconds
    return seconds[False] / (sum(seconds.values()) or 1.0)


def importances(
    study: optuna.Study, objectives: Sequence[Objective]
) -> dict[str, dict[str, float]]:
    """By objective, the share of its variance that each parameter explains, largest first.

    By Optuna's fANOVA (Hutter et al. 2014); empty where too few trials have finished.
    """
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(finished) < MIN_TRIALS:
        return {}
    # Imports scikit-learn, for which no first line should wait
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    def share(index: int) -> dict[str, float]:
        def value(trial: optuna.trial.FrozenTrial) -> float:
            return float(trial.values[index])

        if math.isclose(*(extreme(map(value, finished)) for extreme in (min, max))):
            return {}  # the objective does not vary, so no parameter explains it
        return get_param_importances(
            study, evaluator=FanovaImportanceEvaluator(seed=0), target=value
        )

    return {objective.metric: share(index) for index, objective in enumerate(objectives)}


@dataclass(frozen=True)
class SearchDiagnostics:
    """Diagnostics: the hypervolume over time, the unfinished share, parameter importances."""

    steps: list[HypervolumePoint]
    unfinished_share: float
    importances: dict[str, dict[str, float]]

    @property
    def metrics(self) -> dict[str, float]:
        """All numbers by name, except the hypervolume over time."""
        shares = {
            f"importance.{metric}.{name}": share
            for metric, by_name in self.importances.items()
            for name, share in by_name.items()
        }
        return {"unfinished_seconds_share": self.unfinished_share, **shares}


def compute_diagnostics(
    records: Sequence[Record],
    study: optuna.Study,
    span: Points,
    objectives: Sequence[Objective],
    least_miou: float = 0.0,
) -> SearchDiagnostics:
    """The diagnostics of a search; `span` (2, costs) is a range of costs.

    The hypervolume counts from `least_miou`.
    """
    return SearchDiagnostics(
        hypervolume_over_time(records, span, objectives, least_miou),
        unfinished_share(records),
        importances(study, objectives),
    )


def hypervolume_over_time(
    records: Sequence[Record],
    span: Points,
    objectives: Sequence[Objective],
    least_miou: float = 0.0,
) -> list[HypervolumePoint]:
    """The hypervolume after each finished trial, in the order in which they ended."""
    ended = sorted((r for r in records if r.ended_at), key=lambda r: str(r.ended_at))
    seconds, steps = 0.0, []
    front: list[Record] = []
    for record in ended:
        seconds += record.metrics.device_seconds if record.metrics else 0.0
        if record.state == "COMPLETE" and record.ended_at:
            front = pareto_front([*front, record], objectives)
            volume = hypervolume(front, span, objectives, least_miou)
            steps.append(HypervolumePoint(seconds, volume, int(record.ended_at.timestamp() * 1000)))
    return steps
