"""The record in MLflow: an experiment per data set, a run per study, a nested run per trial.

Written by the driver alone. Runs are found again by their tags, so that a resumed study goes on
where it stopped.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from sqlalchemy.exc import SQLAlchemyError

from search.delivery import Event, now_ms
from search.insight import Step
from search.record import Record, State

logging.getLogger("mlflow").setLevel(logging.WARNING)  # not its database migrations

STUDY_TAG, STUDY_ID_TAG, TRIAL_TAG = "paretoseg.study", "paretoseg.study_id", "paretoseg.trial"
MAX_PARAMS, MAX_METRICS = 100, 1000  # of one log_batch call
STATUS: dict[State, str] = {
    "RUNNING": "RUNNING",
    "COMPLETE": "FINISHED",
    "PRUNED": "KILLED",
    "FAIL": "FAILED",
}


def check_tracking(uri: str) -> None:
    """Raises ValueError where there is no MLflow store, and makes an absent SQLite one."""
    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError) as error:  # the latter where its disk is full
        raise ValueError(
            f"--tracking-uri must name an MLflow store, but {uri} is none: "
            f"{str(error).splitlines()[0]}"
        ) from error


class Tracking:
    """Keeps one study in MLflow.

    Args:
        study_id: finds the study's runs again; a name may be used twice.
        artifact_root: where a store without its own artifact location keeps files.
        tags: said of the study and of each of its trials.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        study_name: str,
        study_id: str,
        artifact_root: Path,
        tags: dict[str, str],
    ) -> None:
        self.client = MlflowClient(tracking_uri)
        self.study_name, self.study_id = study_name, study_id
        self.tags = {STUDY_TAG: study_name, STUDY_ID_TAG: study_id, **tags}
        known = self.client.get_experiment_by_name(experiment)
        location = artifact_root.resolve().as_uri() if tracking_uri.startswith("sqlite") else None
        self.experiment_id = (
            known.experiment_id if known else self.client.create_experiment(experiment, location)
        )
        self.study_run = self._find("study") or self._create("study", {})
        self.client.update_run(self.study_run, status="RUNNING")
        self.runs: dict[str, str] = {}

    @property
    def page(self) -> str:
        """The runs' place in MLflow's pages, which otherwise open on traces of language models."""
        return f"#/experiments/{self.experiment_id}/runs?workflowType=machine_learning"

    def replay(self, record: Record) -> None:
        """Writes what a driver that died may have left out; nothing where the run is complete."""
        if record.state != "RUNNING":
            status = self.client.get_run(self._run(record)).info.status
            if status != STATUS[record.state]:
                self.deliver([Event("ended", record, now_ms())])

    def deliver(self, events: Sequence[Event]) -> None:
        """All that happened to one trial, in as few calls as possible."""
        last = events[-1]
        if {event.kind for event in events} & {"started", "ended"}:
            self._log_params(last.record)
        self._log_metrics([event for event in events if event.kind != "started"])
        if last.kind == "ended":
            self._end(last.record)

    def _end(self, record: Record) -> None:
        run = self._run(record)
        tags = {"state": record.state, "reason": record.reason}
        if record.config:
            tags["recipe"] = record.config.recipe.name
        self.client.log_batch(run, tags=[RunTag(k, v) for k, v in tags.items()])
        self.client.set_terminated(run, STATUS[record.state])

    def finish(
        self,
        records: Sequence[Record],
        front: Sequence[Record],
        folder: Path,
        metrics: dict[str, float],
        steps: Sequence[Step],
        interrupted: bool,
    ) -> None:
        """Tags the front, attaches its models, and puts tables and plots on the study's run.

        The hypervolume's steps are device seconds; a resumed study writes the same ones again.
        """
        members = {record.trial_id for record in front}
        for record in records:
            run = self._run(record)
            is_member = record.trial_id in members
            self.client.set_tag(run, "front", str(is_member).lower())
            if record.latency_ms is not None:
                self.client.log_metric(run, "latency_ms", record.latency_ms)
            if is_member and not self.client.list_artifacts(run, "model"):
                self.client.log_artifacts(run, str(folder / "models" / record.trial_id), "model")
        for name in (
            "trials.parquet",
            "front.parquet",
            "front.png",
            "front.html",
            "search.png",
            "study.json",
        ):
            self.client.log_artifact(self.study_run, str(folder / name))
        now = int(time.time() * 1000)
        self.client.log_batch(
            self.study_run, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()]
        )
        grown = [
            Metric("hypervolume", step.hypervolume, step.time_ms, int(step.device_seconds))
            for step in steps
        ]
        for first in range(0, len(grown), MAX_METRICS):
            self.client.log_batch(self.study_run, metrics=grown[first : first + MAX_METRICS])
        self.client.set_terminated(self.study_run, "KILLED" if interrupted else "FINISHED")

    def _log_metrics(self, events: Sequence[Event]) -> None:
        by_epoch = {e.record.metrics.epoch: e for e in events if e.record.metrics}
        metrics = [metric for event in by_epoch.values() for metric in as_mlflow(event)]
        for first in range(0, len(metrics), MAX_METRICS):
            batch = metrics[first : first + MAX_METRICS]
            self.client.log_batch(self._run(events[-1].record), metrics=batch)

    def _log_params(self, record: Record) -> None:
        leaves = record.config.leaves() if record.config else {}
        params = [Param(name, str(value)) for name, value in leaves.items()]
        for first in range(0, len(params), MAX_PARAMS):
            batch = params[first : first + MAX_PARAMS]
            self.client.log_batch(self._run(record), params=batch)

    def _run(self, record: Record) -> str:
        """The id of the trial's run, made at first need."""
        if record.trial_id not in self.runs:
            self.runs[record.trial_id] = self._find(record.trial_id) or self._create(
                record.trial_id, {MLFLOW_PARENT_RUN_ID: self.study_run}
            )
        return self.runs[record.trial_id]

    def _find(self, trial: str) -> str | None:
        wanted = {STUDY_ID_TAG: self.study_id, TRIAL_TAG: trial}
        query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in wanted.items())
        found = self.client.search_runs([self.experiment_id], query, max_results=1)
        return found[0].info.run_id if found else None

    def _create(self, trial: str, extra: dict[str, str]) -> str:
        name = self.study_name if trial == "study" else f"{self.study_name}/{trial}"
        tags = {**self.tags, TRIAL_TAG: trial, MLFLOW_RUN_NAME: name, **extra}
        return str(self.client.create_run(self.experiment_id, tags=tags).info.run_id)


def as_mlflow(event: Event) -> Iterator[Metric]:
    """One epoch's metrics, with the epoch as step; said twice they are the same to MLflow."""
    metrics = event.record.metrics
    assert metrics
    values = metrics.model_dump(exclude={"epoch", "losses"}, exclude_none=True)
    losses = {f"loss.{name}": value for name, value in metrics.losses.items()}
    for name, value in {**values, **losses}.items():
        yield Metric(name, float(value), event.time_ms, metrics.epoch)


class Run(NamedTuple):
    """A trial as MLflow has it."""

    trial: str
    state: str | None
    miou: float | None
    epochs: tuple[int, ...]


def read_runs(uri: str, study_id: str) -> list[Run]:
    """The runs of all trials of a study."""
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found, token = [], None
    while True:
        page = client.search_runs(
            experiments, f"tags.`{STUDY_ID_TAG}` = '{study_id}'", page_token=token
        )
        found += [run for run in page if run.data.tags[TRIAL_TAG] != "study"]
        token = page.token
        if not token:
            break
    return [
        Run(
            run.data.tags[TRIAL_TAG],
            run.data.tags.get("state"),
            run.data.metrics.get("miou"),
            tuple(m.step for m in client.get_metric_history(run.info.run_id, "miou")),
        )
        for run in found
    ]
