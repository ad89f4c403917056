"""A Ray Searcher over Optuna's ask and tell, with its own rules for what is told.

Finished trials are COMPLETE, stopped ones PRUNED, failed ones FAIL with a reason; no value of a
partly trained student is ever told as a result.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from pydantic import ValidationError
from ray.tune.search import Searcher

from search.budget import Budget, Costs
from search.objectives import Objective
from search.observer import Observer
from search.record import (
    CONFIG,
    LATENCY_MS,
    METRICS,
    PREDICTED_SIZE,
    RAY_ID,
    REASON,
    Record,
    read_record,
)
from search.sampler import SamplerName, make_sampler
from spaces import Space
from trainables.command_line import first_problem
from trainables.config import RunConfig, TrialConfig
from trainables.metrics import Metrics
from trainables.trainable import FAILURE
from trainables.trainable import METRICS as RESULT

MAX_REFUSALS = 1000
"""Suggestions in a row that may fail or break the budget before the search gives up."""


class OptunaSearcher(Searcher):
    """Suggests what `StudentTrainable` wants, until `num_trials` were asked.

    Args:
        study: on durable storage; everything about a trial is kept there.
        complete: fills in what the study fixes for all trials (epochs, seed, ...).
        models: folder that gets a folder for each finished trial.
        objectives: what the study optimises, in its order.
        foresee: gives what a configuration will cost.
        budget: what is beyond it is told to the sampler, and never trained.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        complete: Callable[[TrialConfig], TrialConfig],
        objectives: Sequence[Objective],
        foresee: Callable[[TrialConfig], Costs],
        budget: Budget,
        run: RunConfig,
        models: Path,
        num_trials: int,
        sampler: SamplerName,
        seed: int,
        observers: Sequence[Observer] = (),
    ) -> None:
        super().__init__()
        self.study, self.space, self.complete = study, space, complete
        self.objectives, self.foresee, self.budget = objectives, foresee, budget
        self.run, self.models = run, models
        self.trials_left = num_trials
        self.sampler, self.seed = sampler, seed
        self.observers = observers
        self.asked: dict[str, optuna.Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        refusals = 0
        while self.trials_left and refusals < MAX_REFUSALS:
            trial = self._ask()
            state, reason = self._describe(trial)
            if state == TrialState.RUNNING:
                self.trials_left -= 1
                trial.set_user_attr(RAY_ID, trial_id)
                self.asked[trial_id] = trial
                record = self._record(trial)
                assert record.config
                for observer in self.observers:
                    observer.started(record)
                return {
                    "trial": record.config.model_dump(mode="json"),
                    "run": self.run.model_dump(mode="json"),
                    "out": str(self.models / record.trial_id),
                }
            self._tell(trial, state, reason)
            refusals += 1
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        trial = self.asked[trial_id]
        self._keep(trial, result)
        for observer in self.observers:
            observer.reported(self._record(trial))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        trial = self.asked.pop(trial_id, None)
        if trial is None:
            return
        failure = self._keep(trial, result or {}) or (result or {}).get(FAILURE)
        if error:
            failure = "its process died: out of memory, killed, or lost with its node"
        metrics = self._record(trial).metrics
        if failure:
            self._tell(trial, TrialState.FAIL, failure)
        elif metrics is None or not metrics.finished:
            self._tell(trial, TrialState.PRUNED, "stopped before its last epoch")
        else:
            self._tell(trial, TrialState.COMPLETE)

    def close(self) -> None:
        """Tells the trials that Ray ended without a word, as it does when the time is over."""
        for trial_id in list(self.asked):
            self.on_trial_complete(trial_id)

    def _ask(self) -> optuna.Trial:
        trials = self.study.get_trials(deepcopy=False)
        number = sum(trial.state != TrialState.WAITING for trial in trials)
        self.study.sampler = make_sampler(self.sampler, self.seed, number)
        return self.study.ask()

    def _describe(self, trial: optuna.Trial) -> tuple[TrialState, str]:
        """Stores the trial's configuration and costs; gives its state, and why it cannot run."""
        try:
            config = self.complete(self.space(trial))
            trial.set_user_attr(CONFIG, config.model_dump_json())
            costs = self.foresee(config)
        except Exception as error:  # whatever a user's space raises costs one trial, not the study
            return TrialState.FAIL, f"the space failed: {type(error).__name__}: {error}"
        trial.set_user_attr(PREDICTED_SIZE, costs.size_bytes)
        if costs.latency_ms is not None:
            trial.set_user_attr(LATENCY_MS, costs.latency_ms)
        for name, excess in self.budget.excess(costs).items():
            trial.set_constraint(name, excess)
        if complaint := self.budget.complaint(costs):
            return TrialState.PRUNED, f"over budget: {complaint}"
        return TrialState.RUNNING, ""

    def _keep(self, trial: optuna.Trial, result: dict[str, Any]) -> str:
        """Stores the Metrics in a Ray result; gives what is wrong with them, if anything is."""
        if RESULT not in result:
            return ""
        try:
            metrics = Metrics.model_validate_json(result[RESULT])
        except ValidationError as error:
            return f"not finite: {first_problem(error)}"
        trial.set_user_attr(METRICS, metrics.model_dump_json())
        return ""

    def _tell(self, trial: optuna.Trial, state: TrialState, reason: str = "") -> None:
        values = None
        if state == TrialState.COMPLETE:
            values = self._record(trial).measured(self.objectives)
        else:
            trial.set_user_attr(REASON, reason)
        self.study.tell(trial, values, state)
        for observer in self.observers:
            observer.ended(self._record(trial))

    def _record(self, trial: optuna.Trial) -> Record:
        return read_record(self.study.get_trials(deepcopy=False)[trial.number])

    # All state is in Optuna's storage: Ray's own snapshots have nothing to keep.
    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        return Searcher, ()

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a study is resumed from its journal")
