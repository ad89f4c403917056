"""Stops what cannot reach the front: multi-objective successive halving for Ray Tune.

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
ReadLosses = Callable[[str, dict[str, Any]], MinimizedValues | None]
KeepArrival = Callable[[RungDecision], None]


class ParetoHalving(FIFOScheduler):
    """A Tune scheduler that stops trials by `Halving`.

    Args:
        objectives: the results' objectives and which way they are better; or a function that gives
            the losses of a trial from its id and a result, None where that has none.
        max_epochs: results of a full training, counted by `time_attr`.
        grace_epochs: no trial is stopped earlier.
        reduction: about one trial in so many passes a rung.
        doubt: see `Halving`.
        keep: hears of each arrival; `halving.replay` takes them back after a restart, which Ray's
            own snapshots leave out.
        name_of: gives a trial's own name by Ray's id, where it outlives Ray's trials.
    """

    def __init__(
        self,
        objectives: Mapping[str, Mode] | ReadLosses,
        max_epochs: int,
        grace_epochs: int = 1,
        reduction: float = 3,
        confidence_width: float = CONFIDENCE_WIDTH,
        time_attr: str = "training_iteration",
        keep: KeepArrival | None = None,
        name_of: Callable[[str], str] = str,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read = objectives if callable(objectives) else losses_of(objectives)
        rungs = rung_epochs(max_epochs, grace_epochs, reduction)
        self.halving = SuccessiveHalving(rungs, max_epochs, reduction, confidence_width)
        self.time_attr, self.keep, self.name_of = time_attr, keep, name_of

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        decision = self._arrive(trial, result)
        promoted = decision is None or decision.promoted
        return TrialScheduler.CONTINUE if promoted else TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._arrive(trial, result)

    def _arrive(self, trial: Trial, result: dict[str, Any]) -> RungDecision | None:
        losses = self.read(trial.trial_id, result)
        if losses is None:
            return None
        name = self.name_of(trial.trial_id)
        decision = self.halving.report(name, int(result[self.time_attr]), losses)
        if decision and self.keep:
            self.keep(decision)
        return decision


def losses_of(objectives: Mapping[str, Mode]) -> ReadLosses:
    """Reads objectives from results.

    Raises:
        ValueError: there is none, or one is neither min nor max; later, a result lacks one.
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
