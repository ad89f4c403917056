"""The record in MLflow: an experiment per data set, a run per study, a nested run per trial.

Only the driver writes it. Runs are found again by their tags, so that a resumed study continues
them.
"""

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from sqlalchemy.exc import SQLAlchemyError

from search.analysis.diagnostics import HypervolumePoint
from search.core.record import (
    LATENCY_MS,
    NON_TABLE_FIELDS,
    OTHER_SEED_MIOU,
    Record,
    RecordState,
)
from search.core.tracking_uri import database_of, sqlite_uri
from search.storage.layout import (
    DIAGNOSTICS_PLOT,
    FRONT_PAGE,
    FRONT_PLOT,
    FRONT_TABLE,
    STUDY_FILE,
    TRIALS_TABLE,
    model_folder,
)
from search.tracking.callbacks import Event
from search.tracking.mlflow_errors import describe_store_error, is_transient
from search.tracking.mlflow_internals import move_artifacts
from trainables.core import terminal
from trainables.core.files import is_writable
from trainables.core.metrics import Metrics
from trainables.core.progress import announce
from trainables.data.packed import PackedDataset
from trainables.training.setup import UnlabelledImages

logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # errors are reported here, in one line

STUDY_TAG, STUDY_ID_TAG, TRIAL_TAG = "paretoseg.study", "paretoseg.study_id", "paretoseg.trial"
MAX_CLASS_NAME = 200
"""Characters of a class name in the name of a metric, which MLflow limits to 250."""
MAX_PARAMS, MAX_METRICS = 100, 1000  # of one log_batch call
STATUS: dict[RecordState, str] = {
    "RUNNING": "RUNNING",
    "PAUSED": "SCHEDULED",
    "COMPLETE": "FINISHED",
    "PRUNED": "KILLED",
    "FAIL": "FAILED",
}


def check_tracking(uri: str, storage: Path) -> None:
    """Checks that a store answers; warns if it does not answer now; creates no SQLite store.

    Raises:
        ValueError: `uri` names no MLflow store, or a database in a folder that does not exist and
            is not `storage`, or that cannot be written.
    """
    database = database_of(uri)
    if database and database.parent != storage and not database.parent.is_dir():
        raise ValueError(
            f"the folder of --tracking-uri's database must exist, but there is no {database.parent}"
        )
    if database and not database.exists():
        if not is_writable(database.parent):
            raise ValueError(
                f"the folder of --tracking-uri's database must be writable, but {database.parent} "
                "is not"
            )
        return
    with store_errors(uri):
        MlflowClient(uri).search_experiments(max_results=1)


@contextmanager
def store_errors(uri: str) -> Iterator[None]:
    """Warns if a store does not answer in the block, which may be temporary.

    Raises:
        ValueError: another error arose in the block.
    """
    try:
        yield
    except Exception as error:  # by MLflow, by SQLAlchemy, or for a missing database driver
        reason = describe_store_error(error)
        if isinstance(error, ImportError):
            reason += ", which this kind of store needs: install it"
        if not is_transient(error, uri):
            raise ValueError(
                f"--tracking-uri must name an MLflow store, but {uri} is none: {reason}"
            ) from error
        terminal.print_error(f"MLflow does not answer now and is tried again later: {reason}")


def make_store(uri: str) -> None:
    """Creates a SQLite store if it is absent.

    Raises:
        ValueError: it cannot be created, or the URI has options that MLflow does not accept.
    """
    path = database_of(uri)
    if path is None or path.exists():
        return
    with store_errors(uri):
        make_database(path)
        MlflowClient(uri).search_experiments(max_results=1)


def make_database(path: Path) -> None:
    """Creates a SQLite store under a temporary name: MLflow cannot open a partial one again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            announce("making the database of MLflow")
            aside.unlink(missing_ok=True)
            MlflowClient(sqlite_uri(aside)).search_experiments(max_results=1)
            aside.rename(path)


class MlflowTracker:
    """Writes one study to MLflow, to which it connects at first use.

    Writes are idempotent: data written twice, as after a failure, are stored once.

    Args:
        study_id: identifies the study's runs; a name may be used twice.
        artifact_root: the artifact location of a store that has none of its own.
        tags: set on the runs of the study and of each of its trials.
        class_names: of the data, in order.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        study_name: str,
        study_id: str,
        artifact_root: Path,
        tags: dict[str, str],
        class_names: Sequence[str],
    ) -> None:
        self.client = MlflowClient(tracking_uri)
        self.experiment, self.artifact_root = experiment, artifact_root
        self.database = database_of(tracking_uri)
        self.study_name, self.study_id = study_name, study_id
        self.tags = {STUDY_TAG: study_name, STUDY_ID_TAG: study_id, **tags}
        self.class_metrics = class_metrics(class_names)
        self.is_behind = False
        """Whether the store lacks part of the record."""
        self.statuses: dict[str, str] = {}
        self.logged: dict[str, int] = {}

    @cached_property
    def experiment_id(self) -> str:
        """The id of the data set's experiment, which is created or restored if necessary."""
        known = self.client.get_experiment_by_name(self.experiment)
        location = self.artifact_root.resolve().as_uri() if self.database else None
        if known is None:
            return str(self.client.create_experiment(self.experiment, location))
        if known.lifecycle_stage == LifecycleStage.DELETED:  # by a user: it accepts no runs then
            self.client.restore_experiment(known.experiment_id)
        before = known.artifact_location
        is_own = self.database and self.database.parent == self.artifact_root.parent
        if self.database and is_own and before != location:  # the storage has moved
            move_artifacts(self.database, before, str(location))
        return str(known.experiment_id)

    @cached_property
    def runs(self) -> dict[str, str]:
        """The ids of the study's runs by trial, its own by "study"."""
        found = {}
        for run in search_runs(self.client, [self.experiment_id], self.study_id):
            trial = run.data.tags[TRIAL_TAG]
            found[trial] = run.info.run_id
            self.statuses[trial] = run.info.status
        return found

    @cached_property
    def study_run(self) -> str:
        """The id of the study's own run."""
        if "study" not in self.runs:
            self.runs["study"] = self._create("study", {})
        self.client.update_run(self.runs["study"], status="RUNNING")
        return self.runs["study"]

    @property
    def page(self) -> str:
        """The path of the runs in MLflow's pages, which open on traces of language models."""
        experiment_id = vars(self).get("experiment_id")  # only if known: MLflow might not answer
        if experiment_id is None:
            return ""
        return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"

    def deliver(self, events: Sequence[Event]) -> None:
        """Writes the events of one trial, in as few calls as possible."""
        last, kinds = events[-1], {event.kind for event in events}
        trial_id, status = last.record.trial_id, STATUS[last.record.state]
        run = self._run(last.record)
        if kinds == {"replayed"} and self.statuses.get(trial_id) == status:
            return
        if kinds != {"reported"}:
            self._log_params(last.record)
        self._log_metrics(last.record)
        if last.record.state != "RUNNING":
            self._end(last.record)
        elif self.statuses.get(trial_id) != status:
            self.client.update_run(run, status)
        self.statuses[trial_id] = status

    def _end(self, record: Record) -> None:
        run = self._run(record)
        tags = {"state": record.state, "reason": record.reason}
        if record.config:
            tags["recipe"] = record.config.recipe.name
        self.client.log_batch(run, tags=[RunTag(k, v) for k, v in tags.items()])
        if record.state == "PAUSED":
            self.client.update_run(run, STATUS[record.state])
            return
        self._log_class_iou(record)
        self.client.set_terminated(run, STATUS[record.state])

    def finish(
        self,
        records: Sequence[Record],
        front: Sequence[Record],
        folder: Path,
        metrics: dict[str, float],
        steps: Sequence[HypervolumePoint],
        interrupted: bool,
    ) -> None:
        """Tags the front, attaches its models, and puts tables and plots on the study's run.

        The steps of the hypervolume are device seconds; a resumed study writes the same steps.
        """
        members = {record.trial_id for record in front}
        for record in records:
            self.deliver([Event("replayed", record)])
            run = self._run(record)
            is_member = record.trial_id in members
            self.client.set_tag(run, "front", str(is_member).lower())
            late = {LATENCY_MS: record.latency_ms, OTHER_SEED_MIOU: record.other_seed_miou}
            for name, value in late.items():
                if value is not None and record.metrics:
                    self.client.log_metric(run, name, value, record.metrics.time_ms)
            if is_member and not self.client.list_artifacts(run, "model"):
                self.client.log_artifacts(run, str(model_folder(folder, record.trial_id)), "model")
        grown = [
            Metric("hypervolume", step.hypervolume, step.time_ms, int(step.device_seconds))
            for step in steps
        ]
        for first in range(0, len(grown), MAX_METRICS):
            self.client.log_batch(self.study_run, metrics=grown[first : first + MAX_METRICS])
        names = (TRIALS_TABLE, FRONT_TABLE, FRONT_PLOT, FRONT_PAGE, DIAGNOSTICS_PLOT, STUDY_FILE)
        self.end([folder / name for name in names], metrics, interrupted)

    def end(self, files: Sequence[Path], metrics: dict[str, float], interrupted: bool) -> None:
        """Puts files and numbers on the study's run, and ends it."""
        for file in files:
            self.client.log_artifact(self.study_run, str(file))
        now = int(time.time() * 1000)
        self.client.log_batch(
            self.study_run,
            metrics=[Metric(metric_name(n), value, now, 0) for n, value in metrics.items()],
        )
        self.client.set_terminated(self.study_run, "KILLED" if interrupted else "FINISHED")

    def _log_metrics(self, record: Record) -> None:
        """Logs the metrics of the epochs that this driver has not logged yet."""
        logged = self.logged.get(record.trial_id, 0)
        reports = [report for report in record.history if report.epoch > logged]
        metrics = [metric for report in reports for metric in as_mlflow(report)]
        for first in range(0, len(metrics), MAX_METRICS):
            batch = metrics[first : first + MAX_METRICS]
            self.client.log_batch(self._run(record), metrics=batch)
        if reports:
            self.logged[record.trial_id] = reports[-1].epoch

    def _log_class_iou(self, record: Record) -> None:
        """Logs the IoU of each class in the last report."""
        if record.metrics is None or record.class_iou is None:
            return
        epoch, now = record.metrics.epoch, record.metrics.time_ms
        by_name = zip(self.class_metrics, record.class_iou, strict=True)
        metrics = [Metric(name, iou, now, epoch) for name, iou in by_name if iou is not None]
        self.client.log_batch(self._run(record), metrics=metrics)

    def _log_params(self, record: Record) -> None:
        leaves = record.config.flatten() if record.config else {}
        params = [Param(name, str(value)) for name, value in leaves.items()]
        for first in range(0, len(params), MAX_PARAMS):
            batch = params[first : first + MAX_PARAMS]
            self.client.log_batch(self._run(record), params=batch)

    def _run(self, record: Record) -> str:
        """The id of the trial's run, which is created at first use."""
        if record.trial_id not in self.runs:
            parent = {MLFLOW_PARENT_RUN_ID: self.study_run}
            self.runs[record.trial_id] = self._create(record.trial_id, parent)
            self.statuses[record.trial_id] = "RUNNING"
        return self.runs[record.trial_id]

    def _create(self, trial: str, extra: dict[str, str]) -> str:
        name = self.study_name if trial == "study" else f"{self.study_name}/{trial}"
        tags = {**self.tags, TRIAL_TAG: trial, MLFLOW_RUN_NAME: name, **extra}
        try:
            return str(self.client.create_run(self.experiment_id, tags=tags).info.run_id)
        except Exception:  # it may exist nevertheless: search again before the next attempt
            del self.runs
            raise


def data_tags(unlabelled: UnlabelledImages | None) -> dict[str, str]:
    """The tags of the runs of a study or a comparison with unlabelled images."""
    if unlabelled is None:
        return {}
    packed = unlabelled.packed
    return {"unlabelled_images": str(len(packed.images)), "unlabelled_digest": packed.path.name}


def experiment_name(data_name: str, data: PackedDataset) -> str:
    """The name of the experiment of a data set, which its studies and comparisons share."""
    return f"{Path(data_name).name} {data.height}x{data.width} {data.digest[-8:]}"


def metric_name(name: str) -> str:
    """A name with `_` for each character that MLflow does not take in the name of a metric."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def as_mlflow(metrics: Metrics) -> Iterator[Metric]:
    """One epoch's metrics, with the epoch as step; MLflow stores equal metrics once."""
    values = metrics.model_dump(exclude=NON_TABLE_FIELDS, exclude_none=True)
    losses = {f"loss.{name}": value for name, value in metrics.losses.items()}
    for name, value in {**values, **losses}.items():
        yield Metric(name, float(value), metrics.time_ms, metrics.epoch)


def class_metrics(class_names: Sequence[str]) -> list[str]:
    """The names of the metrics with the IoU of each class, of characters that MLflow allows."""
    allowed = [re.sub(r"[^\w.\- ]", "_", name)[:MAX_CLASS_NAME] for name in class_names]
    return [
        f"iou.{name}" if allowed.count(name) == 1 else f"iou.{name}_{index}"
        for index, name in enumerate(allowed)
    ]


def search_runs(client: MlflowClient, experiments: list[str], study_id: str) -> list[MlflowRun]:
    """All runs of a study, its own among them."""
    found: list[MlflowRun] = []
    query, token = f"tags.`{STUDY_ID_TAG}` = '{study_id}'", None
    while True:
        page = client.search_runs(experiments, query, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


class Run(NamedTuple):
    """The run of a trial in MLflow."""

    trial: str
    state: str | None
    metrics: dict[str, float]
    params: dict[str, str]
    epochs: tuple[int, ...]


def read_runs(uri: str, study_id: str) -> list[Run]:
    """The runs of all trials of a study; none where the store does not exist.

    Raises:
        ValueError: the store does not answer.
    """
    database = database_of(uri)
    if database and not database.exists():
        return []  # a query would create the store
    try:
        return list(find_runs(MlflowClient(uri), study_id))
    except (MlflowException, SQLAlchemyError) as error:
        reason = describe_store_error(error)
        raise ValueError(f"MLflow at {uri} cannot be asked: {reason}") from error


def find_runs(client: MlflowClient, study_id: str) -> Iterator[Run]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return (
        Run(
            run.data.tags[TRIAL_TAG],
            run.data.tags.get("state"),
            run.data.metrics,
            run.data.params,
            tuple(m.step for m in client.get_metric_history(run.info.run_id, "miou")),
        )
        for run in search_runs(client, experiments, study_id)
        if run.data.tags[TRIAL_TAG] != "study"
    )
