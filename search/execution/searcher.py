"""A Ray Searcher over Optuna's ask and tell, with its own rules for what Optuna is told.

Finished trials are COMPLETE, stopped ones PRUNED, failed ones FAIL with a reason. Values of a
partly trained student are never told to Optuna as results.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from pydantic import ValidationError
from ray.tune.search import Searcher

from search.algorithms.problem import SamplerSettings, SearchProblem
from search.algorithms.proposer import REPEATED, STOP_WINDOW, Proposer
from search.core.record import (
    LATENCY_DISTURBED,
    LATENCY_MS,
    PREDICTED_SIZE,
    Record,
    RungDecision,
)
from search.execution.resources import TrialResources
from search.storage.layout import checkpoint_folder, leave_file, model_folder
from search.storage.trials import (
    end_trial,
    pause_trial,
    read_trial_config,
    record_of,
    store_config,
    store_decision,
    store_metrics,
    store_price,
    store_ray_id,
    trial_name,
    why_stopped,
)
from search.tracking.callbacks import Callback
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.command_line import first_problem
from trainables.core.errors import NOT_FINITE, TrialFailed
from trainables.core.metrics import Metrics
from trainables.trainable import FAILURE, METRICS, NO_ROOM, OTHER_STARTS, PAUSE, TRACE

log = logging.getLogger(__name__)
RESOURCES = "resources"
"""Key of what a trial takes, as Ray names resources, in the configuration of its trainable."""
MAX_REFUSALS = 1000
"""Consecutive suggestions that may fail or exceed the budget before the search ends."""
MAX_REPEATS = 50
"""Consecutive suggestions trained already after which the space is taken to be exhausted."""


ONE_CORE = TrialResources(cpus=1, gpus=0)
Place = Callable[[Counter[TrialResources]], TrialResources | None]
"""The resources of the next trial, given those of pending and running ones; None: no room."""


@dataclass(frozen=True)
class SearchLimits:
    """The number of trials that are asked for, and when no more are asked for."""

    num_trials: int
    is_over: Callable[[], bool] = lambda: False
    """Whether no more trials are asked for, as after the end of the time budget."""
    place: Place = lambda taken: ONE_CORE


class OptunaSearcher(Searcher):
    """Suggests configurations of `StudentTrainable` until the limits are reached.

    Args:
        study: on durable storage; all data of a trial are stored there.
        run: how trials are run, which is the same for all of them.
        folder: the study's; gets a folder for each trial's checkpoints and for each model.

    `asked` holds the current records of pending and running trials, by Ray's ids. If no more trials
    are asked for although some are left, `end` gives the reason, or `no_room` the disk that is
    full. Trials that an earlier driver had started are WAITING in the study and are suggested
    first.
    """

    def __init__(
        self,
        study: optuna.Study,
        problem: SearchProblem,
        settings: SamplerSettings,
        limits: SearchLimits,
        run: ExecutionConfig,
        folder: Path,
        callbacks: Sequence[Callback] = (),
        shared_starts: Sequence[TrialConfig] = (),
    ) -> None:
        """`shared_starts` may be trained by trials that wait for their own, which others train.

        They are those that several trials of the space have, as far as is known.
        """
        super().__init__()
        self.untrained_starts = {start.digest(): start for start in shared_starts}
        self.study, self.problem, self.limits = study, problem, limits
        self.run, self.folder, self.callbacks = run, folder, callbacks
        self.trials_left = limits.num_trials
        self.asked: dict[str, Record] = {}
        self.places: dict[str, TrialResources] = {}
        self.end = self.no_room = ""
        self.history = problem.new_history()
        self.history.update_all(study)
        self.proposer = Proposer(study, problem, self.history, settings)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        refusals = repeats = 0
        if not self.trials_left and self.asked and not (self.no_room or self.limits.is_over()):
            return None  # one of them may be paused and continue elsewhere
        while self.trials_left and refusals < MAX_REFUSALS and repeats < MAX_REPEATS:
            if self.no_room:
                break
            if self.limits.is_over():
                self.end = "the time is over"
                break
            taken = Counter(self.places[trial_id] for trial_id in self.asked)
            if (place := self.limits.place(taken)) is None:
                return None
            if (trial := self.proposer.ask(self.trials_left)) is None:
                self.end = f"{STOP_WINDOW} proposals in a row are expected to add next to nothing"
                break
            state, reason = self._describe(trial)
            record = record_of(self.study, trial.number)
            if state == TrialState.RUNNING:
                return self._launch(trial_id, record, place)
            self._tell(record, state, reason)
            refusals += 1
            repeats = repeats + 1 if REPEATED in reason else 0
        if repeats == MAX_REPEATS:
            self.end = "the space seems to hold nothing that was not trained yet"
        elif refusals == MAX_REFUSALS:
            self.end = f"{MAX_REFUSALS} suggestions in a row could not be trained"
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        with suppress(TrialFailed):  # the failure is told when the trial ends
            self._report(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if error or trial_id not in self.asked:
            return  # after an error `on_worker_lost` follows, which has the reason
        result = result or {}
        failure = result.get(FAILURE)
        try:
            self._report(trial_id, result)
        except TrialFailed as not_finite:
            failure = str(not_finite)
        record = self.asked.pop(trial_id)
        if TRACE in result:
            log.error("trial %s: %s", record.trial_id, result[TRACE])
        if failure:
            self._tell(record, TrialState.FAIL, failure)
        elif PAUSE in result:
            self.no_room = result.get(NO_ROOM, self.no_room)
            self._pause(record)
        elif record.metrics is None or not record.metrics.finished:
            self._tell(record, TrialState.PRUNED, why_stopped(record))
        else:
            self._tell(record, TrialState.COMPLETE)

    def price(self, trial_id: str, price_per_hour: float) -> None:
        """Stores what an hour of a trial costs where it has begun."""
        record = store_price(self.study, self.asked[trial_id], price_per_hour)
        self.asked[trial_id] = record

    def requeue(self, trial_id: str) -> None:
        """Enqueues a trial again that Ray ended without notice; it is asked for next."""
        self._pause(self.asked.pop(trial_id))

    def on_worker_lost(self, trial_id: str, reason: str) -> None:
        """Tells Optuna that a trial has failed because its process died too often."""
        if (record := self.asked.pop(trial_id, None)) is not None:
            self._tell(record, TrialState.FAIL, reason)

    def close(self) -> None:
        """Tells Optuna of the trials that Ray ended without notice, as after the time budget."""
        for trial_id in list(self.asked):
            self.on_trial_complete(trial_id)

    def name_of(self, trial_id: str) -> str:
        """The name, in the study, of the trial that Ray knows by an id."""
        return self.asked[trial_id].trial_id

    def minimized_values(self, trial_id: str, result: dict[str, Any]) -> list[float] | None:
        """The objectives of a running trial as the scheduler ranks them; costs are exact.

        None where the result reports a failure.
        """
        if trial_id not in self.asked:
            return None
        try:
            metrics = self._report(trial_id, result)
        except TrialFailed:
            return [math.inf] * len(self.problem.objectives)
        if metrics is None:
            return None
        return self.history.minimized_values(self.name_of(trial_id), metrics)

    def record_decision(self, decision: RungDecision) -> None:
        """Stores the decision on a trial at a rung."""
        (trial_id,) = (
            t for t, record in self.asked.items() if record.trial_id == decision.trial_id
        )
        record = store_decision(self.study, self.asked[trial_id], decision)
        self.asked[trial_id] = record
        self.history.update(record)

    def _describe(self, trial: optuna.Trial) -> tuple[TrialState, str]:
        """Stores the trial's configuration and costs; gives its state, and why it cannot run."""
        try:
            config = read_trial_config(trial.user_attrs)  # of a trial that an earlier driver began
            if config is None:
                config = self.problem.complete(self.problem.space(trial))
                store_config(trial, config)
            costs = self.problem.predict_cost(config)
        except Exception as error:  # an error in a user's space fails one trial, not the study
            return TrialState.FAIL, f"the space failed: {type(error).__name__}: {error}"
        trial.set_user_attr(PREDICTED_SIZE, costs.size_bytes)
        if costs.latency_ms is not None:
            trial.set_user_attr(LATENCY_MS, costs.latency_ms)
            if costs.latency_disturbed:
                trial.set_user_attr(LATENCY_DISTURBED, True)
        for name, excess in self.problem.budget.excess(costs).items():
            if name not in trial.constraints:  # as it is in a trial that was paused
                trial.set_constraint(name, excess)
        violations = self.problem.budget.describe_violations(costs)
        if violations and not config.recipe.is_reference:
            return TrialState.PRUNED, f"over budget: {violations}"
        same = self.history.trained.get(config.digest())
        if same and same != trial_name(trial.number):
            return TrialState.PRUNED, f"not trained again: {REPEATED} {same}"
        return TrialState.RUNNING, ""

    def _launch(self, trial_id: str, record: Record, place: TrialResources) -> dict[str, Any]:
        """Registers a trial as launched and gives the configuration of its trainable."""
        self.trials_left -= 1
        record = self.asked[trial_id] = store_ray_id(self.study, record, trial_id)
        self.places[trial_id] = place
        assert record.config
        self.history.update(record)
        for callback in self.callbacks:
            callback.started(record)
        run = place.given_to(self.run)
        leave = leave_file(self.folder, trial_id)
        run = run.replace(stop_files=(*run.stop_files, leave))
        return {
            "trial": record.config.model_dump(mode="json"),
            "run": run.model_dump(mode="json"),
            RESOURCES: place.request(),
            OTHER_STARTS: [
                start.model_dump(mode="json") for start in self._starts_beside(record.config)
            ],
            "out": str(model_folder(self.folder, record.trial_id)),
            "checkpoints": str(checkpoint_folder(self.folder, record.trial_id)),
        }

    def _starts_beside(self, config: TrialConfig) -> list[TrialConfig]:
        """The starts that no running trial has, for one whose start is perhaps being trained.

        Not more than there are trials left, which may need them.
        """
        if start_name(config) not in self.untrained_starts:
            return []
        running = {start_name(record.config) for record in self.asked.values()}
        others = [start for name, start in self.untrained_starts.items() if name not in running]
        return others[: self.trials_left]

    def _report(self, trial_id: str, result: Mapping[str, Any]) -> Metrics | None:
        """Stores the Metrics in a Ray result, and gives them.

        A restarted training reports its last Metrics again; Metrics that are stored already are
        not stored again.

        Raises:
            TrialFailed: they are not finite.
        """
        metrics, record = parse_result(result), self.asked[trial_id]
        if metrics:
            self._leave_start(record)
        if metrics and metrics.epoch > max(record.reports, default=0):
            record = self.asked[trial_id] = store_metrics(self.study, record, metrics)
            for callback in self.callbacks:
                callback.reported(record)
        return metrics

    def _leave_start(self, record: Record) -> None:
        """The start of a trial is trained, or fails: no trial trains it for another."""
        if self.untrained_starts:
            self.untrained_starts.pop(start_name(record.config), None)

    def _pause(self, record: Record) -> None:
        """Enqueues a trial again, to continue when the study is resumed."""
        self.trials_left += 1
        self._ended(pause_trial(self.study, record))

    def _tell(self, record: Record, state: TrialState, reason: str = "") -> None:
        if state == TrialState.FAIL:
            self._leave_start(record)
        is_complete = state == TrialState.COMPLETE
        values = record.measured(self.problem.objectives) if is_complete else None
        self._ended(end_trial(self.study, record, state, reason, values))

    def _ended(self, record: Record) -> None:
        self.history.update(record)
        for callback in self.callbacks:
            callback.ended(record)

    # All state is in Optuna's storage, so that Ray's own snapshots need none.
    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        return Searcher, ()

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a study is resumed from its journal")


def start_name(config: TrialConfig | None) -> str:
    """The digest of what a training starts from; "" where it starts from nothing."""
    start = config.start if config else None
    return start.digest() if start else ""


def parse_result(result: Mapping[str, Any]) -> Metrics | None:
    """The Metrics in a Ray result; None where it reports a failure or a pause.

    Raises:
        TrialFailed: they are not finite.
    """
    if METRICS not in result:
        return None
    try:
        return Metrics.model_validate_json(result[METRICS])
    except ValidationError as error:
        raise TrialFailed(f"{NOT_FINITE}: {first_problem(error)}") from error
