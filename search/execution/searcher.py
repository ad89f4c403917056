"""A Ray Searcher over Optuna's ask and tell, with its own rules for what is told.

Finished trials are COMPLETE, stopped ones PRUNED, failed ones FAIL with a reason; no value of a
partly trained student is ever told as a result.
"""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from pydantic import ValidationError
from ray.tune.search import Searcher

from search.algorithms.observations import Observation, TrialHistory
from search.algorithms.proposer import REPEATED, STOP_WINDOW, Proposer
from search.core.config import SamplerName
from search.core.constraints import Budget, Costs
from search.core.objectives import Objective
from search.core.record import LATENCY_MS, PREDICTED_SIZE, Record, RungDecision
from search.storage.cleanup import CHECKPOINTS, MODELS
from search.storage.trials import (
    CONFIG,
    RAY_ID,
    REASON,
    metrics_key,
    pause,
    read_reports,
    record_decision,
    record_of,
    trial_name,
    trial_number,
    why_stopped,
)
from search.tracking.callbacks import Callback
from spaces import Space
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.command_line import first_problem
from trainables.core.errors import NOT_FINITE
from trainables.core.metrics import Metrics
from trainables.trainable import FAILURE, NO_ROOM, PAUSE, TRACE
from trainables.trainable import METRICS as RESULT

log = logging.getLogger(__name__)
MAX_REFUSALS = 1000
"""Suggestions in a row that may fail or break the budget before the search gives up."""
MAX_REPEATS = 50
"""Suggestions in a row that were trained already: then the space holds nothing new."""


class OptunaSearcher(Searcher):
    """Suggests what `StudentTrainable` wants, until `num_trials` were asked.

    Args:
        study: on durable storage; everything about a trial is kept there.
        complete: fills in what the study fixes for all trials (epochs, seed, ...).
        folder: the study's; gets a folder for each trial's checkpoints and for each model.
        objectives: what the study optimises, in its order.
        foresee: gives what a configuration will cost.
        memory: of an empty study.
        budget: what is beyond it is told to the sampler, and never trained.
        earlier: trials of another study, for the sampler to begin with.
        flat: ends the search when proposals promise less, as a share of the hypervolume.
        is_over: whether the time is over, so that nothing is asked any more.
        capacity: trials that may be on their way at once.

    Once nothing more is asked although trials are left, `end` says why, or `no_room` which disk is
    full. Trials that a driver before this one had begun are WAITING in the study and are the first
    to be suggested.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        complete: Callable[[TrialConfig], TrialConfig],
        objectives: Sequence[Objective],
        predict_cost: Callable[[TrialConfig], Costs],
        history: TrialHistory,
        budget: Budget,
        run: ExecutionConfig,
        folder: Path,
        num_trials: int,
        sampler: SamplerName,
        seed: int,
        callbacks: Sequence[Callback] = (),
        warm_start_observations: Sequence[Observation] = (),
        improvement_bar: float | None = None,
        is_over: Callable[[], bool] = lambda: False,
        capacity: Callable[[], float] = lambda: math.inf,
    ) -> None:
        super().__init__()
        self.study, self.space, self.complete = study, space, complete
        self.objectives, self.predict_cost, self.budget = objectives, predict_cost, budget
        self.run, self.folder = run, folder
        self.trials_left = num_trials
        self.callbacks = callbacks
        self.is_over, self.capacity = is_over, capacity
        self.asked: dict[str, optuna.Trial] = {}
        self.end = self.no_room = ""
        self.history = history
        self.history.update_all(study)
        self.proposer = Proposer(
            study,
            space,
            complete,
            budget,
            self.history,
            sampler,
            seed,
            warm_start_observations,
            improvement_bar,
        )

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        refusals = repeats = 0
        if not self.trials_left and self.asked and not (self.no_room or self.is_over()):
            return None  # one of them may be paused and go on elsewhere
        while self.trials_left and refusals < MAX_REFUSALS and repeats < MAX_REPEATS:
            if self.no_room:
                break
            if self.is_over():
                self.end = "the time is over"
                break
            if len(self.asked) >= self.capacity():
                return None
            if (trial := self.proposer.ask()) is None:
                self.end = f"{STOP_WINDOW} proposals in a row promise next to nothing"
                break
            state, reason = self._describe(trial)
            if state == TrialState.RUNNING:
                self.trials_left -= 1
                trial.set_user_attr(RAY_ID, trial_id)
                self.asked[trial_id] = trial
                record = self._record(trial)
                assert record.config
                self.history.update(record)
                for callback in self.callbacks:
                    callback.started(record)
                return {
                    "trial": record.config.model_dump(mode="json"),
                    "run": self.run.model_dump(mode="json"),
                    "out": str(self.folder / MODELS / record.trial_id),
                    "checkpoints": str(self.folder / CHECKPOINTS / record.trial_id),
                }
            self._tell(trial, state, reason)
            refusals += 1
            repeats = repeats + 1 if REPEATED in reason else 0
        if repeats == MAX_REPEATS:
            self.end = "the space seems to hold nothing that was not trained yet"
        elif refusals == MAX_REFUSALS:
            self.end = f"{MAX_REFUSALS} suggestions in a row could not be trained"
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._keep(self.asked[trial_id], result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if error:
            return  # `on_worker_lost` follows, and knows why
        trial = self.asked.pop(trial_id, None)
        if trial is None:
            return
        result = result or {}
        failure = self._keep(trial, result) or result.get(FAILURE)
        record = self._record(trial)
        if TRACE in result:
            log.error("trial %s: %s", record.trial_id, result[TRACE])
        if failure:
            self._tell(trial, TrialState.FAIL, failure)
        elif PAUSE in result:
            self.no_room = result.get(NO_ROOM, self.no_room)
            self._pause(trial)
        elif record.metrics is None or not record.metrics.finished:
            self._tell(trial, TrialState.PRUNED, why_stopped(record))
        else:
            self._tell(trial, TrialState.COMPLETE)

    def requeue(self, trial_id: str) -> None:
        """Puts a trial back that Ray has ended without a word: it is the next that is asked."""
        self._pause(self.asked.pop(trial_id))

    def on_worker_lost(self, trial_id: str, reason: str) -> None:
        """Tells that a trial's process died too often."""
        if (trial := self.asked.pop(trial_id, None)) is not None:
            self._tell(trial, TrialState.FAIL, reason)

    def close(self) -> None:
        """Tells the trials that Ray ended without a word, as it does when the time is over."""
        for trial_id in list(self.asked):
            self.on_trial_complete(trial_id)

    def name_of(self, trial_id: str) -> str:
        """The name, in the study, of the trial that Ray knows by an id."""
        return trial_name(self.asked[trial_id].number)

    def minimized_values(self, trial_id: str, result: dict[str, Any]) -> list[float] | None:
        """The objectives of a running trial as the scheduler ranks them; costs are exact.

        None where the result tells of a failure.
        """
        trial = self.asked.get(trial_id)
        if trial is None or RESULT not in result:
            return None
        if self._keep(trial, result):
            return [math.inf] * len(self.objectives)
        metrics = Metrics.model_validate_json(result[RESULT])
        return self.history.minimized_values(trial_name(trial.number), metrics)

    def record_decision(self, decision: RungDecision) -> None:
        """Stores that a trial has reached a rung."""
        record_decision(self.study, decision)
        self.history.update(record_of(self.study, trial_number(decision.trial_id)))

    def _describe(self, trial: optuna.Trial) -> tuple[TrialState, str]:
        """Stores the trial's configuration and costs; gives its state, and why it cannot run."""
        try:
            if (kept := self._record(trial).config) is None:
                config = self.complete(self.space(trial))
                trial.set_user_attr(CONFIG, config.model_dump_json())
            else:
                config = kept  # begun by a driver before this one
            costs = self.predict_cost(config)
        except Exception as error:  # whatever a user's space raises costs one trial, not the study
            return TrialState.FAIL, f"the space failed: {type(error).__name__}: {error}"
        trial.set_user_attr(PREDICTED_SIZE, costs.size_bytes)
        if costs.latency_ms is not None:
            trial.set_user_attr(LATENCY_MS, costs.latency_ms)
        for name, excess in self.budget.excess(costs).items():
            if name not in trial.constraints:  # as it is in a trial that was paused
                trial.set_constraint(name, excess)
        if describe_violations := self.budget.describe_violations(costs):
            return TrialState.PRUNED, f"over budget: {describe_violations}"
        same = self.history.trained.get(config.digest())
        if same and same != trial_name(trial.number):
            return TrialState.PRUNED, f"not trained again: {REPEATED} {same}"
        return TrialState.RUNNING, ""

    def _keep(self, trial: optuna.Trial, result: dict[str, Any]) -> str:
        """Stores the Metrics in a Ray result; gives what is wrong with them, if anything is.

        Those that are known already, as a training repeats them after its process died, are not
        stored again.
        """
        if RESULT not in result:
            return ""
        try:
            metrics = Metrics.model_validate_json(result[RESULT])
        except ValidationError as error:
            return f"{NOT_FINITE}: {first_problem(error)}"
        known = read_reports(self.study.get_trials(deepcopy=False)[trial.number])
        if metrics.epoch > max(known, default=0):
            trial.set_user_attr(metrics_key(metrics.epoch), metrics.model_dump_json())
            for callback in self.callbacks:
                callback.reported(self._record(trial))
        return ""

    def _pause(self, trial: optuna.Trial) -> None:
        """Puts a trial back into the queue, to go on when the study is resumed."""
        pause(self.study, trial.number)
        self.trials_left += 1
        self.history.update(self._record(trial))
        for callback in self.callbacks:
            callback.ended(self._record(trial))

    def _tell(self, trial: optuna.Trial, state: TrialState, reason: str = "") -> None:
        values = None
        if state == TrialState.COMPLETE:
            values = self._record(trial).measured(self.objectives)
        else:
            trial.set_user_attr(REASON, reason)
        self.study.tell(trial, values, state)
        record = self._record(trial)
        self.history.update(record)
        for callback in self.callbacks:
            callback.ended(record)

    def _record(self, trial: optuna.Trial) -> Record:
        return record_of(self.study, trial.number)

    # All state is in Optuna's storage: Ray's own snapshots have nothing to keep.
    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        return Searcher, ()

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a study is resumed from its journal")
