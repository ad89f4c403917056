"""Observations for the sampler: exact costs of each trial, and its mIoU at each fidelity."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna
from numpy.typing import NDArray

from search.algorithms.candidates import Distributions, Params
from search.core.constraints import Costs
from search.core.objectives import Objective
from search.core.record import Record
from search.storage.trials import asked_trials, read_record
from trainables.config import TrialConfig
from trainables.core.errors import NOT_FINITE, NOT_LEARNING
from trainables.core.metrics import Metrics

Floats = NDArray[np.float64]
MIN_PAIRS = 3
"""Finished trials from which a line is fitted; with fewer, only an offset is fitted."""
SLOPE_PRIOR = 3 * 0.02**2
"""Weight of the prior slope 1 against the data, as a sum of squared mIoU differences."""


@dataclass(frozen=True)
class Observation:
    """One trial: its parameters, its costs, its mIoU at rungs, and its final mIoU if it has one.

    `costs` holds the objectives except mIoU, each known before training; `partial` gives mIoU by
    epoch. A trial that is not running and has no final mIoU was stopped. A `failed` trial has no
    model, and its final mIoU is that of predicting the commonest class.
    """

    params: Params
    distributions: Distributions
    costs: tuple[float, ...]
    partial: Mapping[int, float] = field(default_factory=dict)
    final: float | None = None
    running: bool = False
    failed: bool = False


def final_mious(observations: Sequence[Observation]) -> Floats:
    """The mIoU at the end of training (N,), extrapolated for stopped and running trials.

    A trial is extrapolated from its last rung, by a straight line through the finished trials'
    values at that rung and at their end; NaN where a trial has reached no rung.
    """
    lines = {rung: fit_line(observations, rung) for rung in reached(observations)}

    def estimate(observation: Observation) -> float:
        if observation.final is not None:
            return observation.final
        if not observation.partial:
            return float("nan")
        last = max(observation.partial)
        slope, offset = lines[last]
        return min(max(slope * observation.partial[last] + offset, 0.0), 1.0)

    return np.array([estimate(observation) for observation in observations], dtype=np.float64)


def reached(observations: Iterable[Observation]) -> set[int]:
    return {rung for observation in observations for rung in observation.partial}


def fit_line(observations: Iterable[Observation], rung: int) -> tuple[float, float]:
    """Slope and offset from mIoU at a rung to mIoU at the end, the slope shrunk towards 1."""
    pairs = np.array(
        [
            (observation.partial[rung], observation.final)
            for observation in observations
            if rung in observation.partial and observation.final is not None
        ]
    ).reshape(-1, 2)
    if not len(pairs):
        return 1.0, 0.0
    early, late = pairs.mean(axis=0)
    if len(pairs) < MIN_PAIRS:
        return 1.0, float(late - early)
    apart = pairs - (early, late)
    slope = ((apart[:, 0] * apart[:, 1]).sum() + SLOPE_PRIOR) / (
        (apart[:, 0] ** 2).sum() + SLOPE_PRIOR
    )
    return float(slope), float(late - slope * early)


class TrialHistory:
    """All observations of a study by trial; `trained` gives a trial by its config's digest."""

    def __init__(
        self,
        objectives: Sequence[Objective],
        predict_cost: Callable[[TrialConfig], Costs | None],
        commonest_miou: float = 0.0,
    ) -> None:
        """`commonest_miou` is the mIoU of predicting the commonest class: a failed trial's."""
        self.objectives, self.predict_cost = objectives, predict_cost
        self.commonest_miou = commonest_miou
        self.observations: dict[str, Observation] = {}
        self.trained: dict[str, str] = {}

    def update(self, record: Record) -> None:
        """Replaces the observation of a trial; a trial that was never launched gives none."""
        if record.ray_id is None or record.config is None:
            return
        self.observations.pop(record.trial_id, None)
        self.trained[record.config.digest()] = record.trial_id
        costs = self.costs(record.config)
        failed = record.state == "FAIL"
        if costs is None or (failed and not record.reason.startswith((NOT_LEARNING, NOT_FINITE))):
            return
        miou = next(i for i, o in enumerate(self.objectives) if o.metric == "miou")
        self.observations[record.trial_id] = Observation(
            params=record.params,
            distributions=record.distributions,
            costs=costs,
            partial={
                a.rung: -a.minimized_values[miou]
                for a in record.rung_decisions
                if a.rung < record.config.num_epochs and not failed
            },
            running=record.state in ("RUNNING", "PAUSED"),
            final=self._final(record),
            failed=failed,
        )

    def _final(self, record: Record) -> float | None:
        if record.state == "FAIL":
            return self.commonest_miou
        return record.metrics.miou if record.state == "COMPLETE" and record.metrics else None

    def update_all(self, study: optuna.Study) -> None:
        """Adds the observations of all trials of a study that were asked for."""
        for trial in asked_trials(study):
            self.update(read_record(trial))

    def costs(self, config: TrialConfig) -> tuple[float, ...] | None:
        """The objectives except mIoU; None where one would have to be measured."""
        costs = self.predict_cost(config)
        return None if costs is None else self.values(costs)

    def minimized_values(self, trial_id: str, metrics: Metrics) -> list[float]:
        """The objectives of a trial as a scheduler ranks them; costs are exact."""
        costs = iter(self.observations[trial_id].costs)
        return [
            o.sign * (metrics.miou if o.metric == "miou" else next(costs)) for o in self.objectives
        ]

    def values(self, costs: Costs) -> tuple[float, ...] | None:
        """The objectives except mIoU, of predicted costs; None where one is unknown."""
        values = [getattr(costs, o.metric) for o in self.objectives if o.metric != "miou"]
        return None if None in values else tuple(float(value) for value in values)

    def all_observations(self) -> list[Observation]:
        """All observations of the space, in the order in which trials were asked.

        A network to compare with is not among them: it has no parameters.
        """
        ordered = [self.observations[trial_id] for trial_id in sorted(self.observations, key=int)]
        return [observation for observation in ordered if observation.distributions]
