"""Stops dominated trials early: multi-objective successive halving for Ray Tune.

Usable with any trainable and searcher; objectives and their directions are those of the results:

    scheduler = ParetoHalving({"miou": "max", "size_bytes": "min"}, max_epochs=27)
    tune.Tuner(trainable, tune_config=tune.TuneConfig(scheduler=scheduler, num_samples=50))

Objectives that do not change in training, as a model's size, are to be reported from the start.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.algorithms.successive_halving import (
    CONFIDENCE_WIDTH,
    MinimizedValues,
    SuccessiveHalving,
    rung_epochs,
)
from search.core.record import RungDecision

Mode = Literal["min", "max"]
ReadMinimizedValues = Callable[[str, dict[str, Any]], MinimizedValues | None]
RecordDecision = Callable[[RungDecision], None]


class ParetoHalving(FIFOScheduler):
    """A Tune scheduler that stops trials by `SuccessiveHalving`.

    Args:
        objectives: the results' objectives and which way they are better; or a function that gives
            the objective values of a trial, signed so that less is better, from its id and a
            result; None where the result has none.
        max_epochs: results of a full training, counted by `time_attr`.
        grace_epochs: no trial is stopped earlier.
        reduction: about one trial in so many passes a rung.
        confidence_width: see `SuccessiveHalving`.
        keep: is called with each decision. After a restart `halving.replay` restores the decisions,
            which Ray's own snapshots do not contain.
        name_of: gives the name of a trial that stays the same when Ray runs it under another id.
    """

    def __init__(
        self,
        objectives: Mapping[str, Mode] | ReadMinimizedValues,
        max_epochs: int,
        grace_epochs: int = 1,
        reduction: float = 3,
        confidence_width: float = CONFIDENCE_WIDTH,
        time_attr: str = "training_iteration",
        keep: RecordDecision | None = None,
        name_of: Callable[[str], str] = str,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read = objectives if callable(objectives) else minimized_values_reader(objectives)
        rungs = rung_epochs(max_epochs, grace_epochs, reduction)
        self.halving = SuccessiveHalving(rungs, max_epochs, reduction, confidence_width)
        self.time_attr, self.keep, self.name_of = time_attr, keep, name_of

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        decision = self._decide(trial, result)
        promoted = decision is None or decision.promoted
        return TrialScheduler.CONTINUE if promoted else TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._decide(trial, result)

    def _decide(self, trial: Trial, result: dict[str, Any]) -> RungDecision | None:
        minimized_values = self.read(trial.trial_id, result)
        if minimized_values is None:
            return None
        name = self.name_of(trial.trial_id)
        decision = self.halving.report(name, int(result[self.time_attr]), minimized_values)
        if decision and self.keep:
            self.keep(decision)
        return decision


def minimized_values_reader(objectives: Mapping[str, Mode]) -> ReadMinimizedValues:
    """Gives a function that reads the objectives from a result.

    Raises:
        ValueError: no objective is named, or a mode is neither min nor max. The function itself
            raises it where a result lacks an objective.
    """
    if not objectives or set(objectives.values()) - {"min", "max"}:
        raise ValueError(f"objectives must be named, each min or max, but got {objectives}")

    def read(trial_id: str, result: dict[str, Any]) -> MinimizedValues:
        absent = [name for name in objectives if name not in result]
        if absent:
            raise ValueError(
                f"results must report all objectives, but {', '.join(absent)} is not among "
                f"{', '.join(sorted(result))}"
            )
        return [
            float(result[name]) if mode == "min" else -float(result[name])
            for name, mode in objectives.items()
        ]

    return read
