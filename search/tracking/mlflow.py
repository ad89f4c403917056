"""The record in MLflow: an experiment per data set, a run per study, a nested run per trial.

Only the driver writes it. Runs are found again by their tags, so that a resumed study continues
them. The run of a study cannot take back what it says: where its settings or its front have
changed since, a new one takes its place, its notes and its trials.
"""

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, RunTag, ViewType
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE
from PIL import Image
from sqlalchemy.exc import SQLAlchemyError

from search.analysis.diagnostics import HypervolumePoint
from search.core.objectives import Objective
from search.core.parameter_names import short_names, written_params
from search.core.pareto import pareto_front
from search.core.record import (
    COST,
    LATENCY_MS,
    NON_TABLE_FIELDS,
    OTHER_SEED_MIOU,
    PREDICTED_SIZE,
    Record,
    RecordState,
)
from search.core.tracking_uri import database_of, sqlite_uri
from search.storage.layout import (
    DIAGNOSTICS_PLOT,
    FRONT_PAGE,
    FRONT_PLOT,
    FRONT_TABLE,
    MASKS_PLOT,
    STUDY_FILE,
    TEACHER_MASKS_PLOT,
    TRIALS_TABLE,
    model_folder,
)
from search.storage.study_file import StudyFile
from search.tracking.callbacks import Event
from search.tracking.mlflow_errors import describe_store_error, is_transient
from search.tracking.mlflow_internals import repair_artifacts
from search.tracking.mlflow_models import FrontModels, registry_name
from search.tracking.mlflow_views import STUDIES, TRAINING, view_path, write_views
from search.tracking.paging import all_pages
from search.tracking.run_content import (
    FRONT_TAG,
    KIND_TAG,
    PATH_TAG,
    STUDY_ID_TAG,
    STUDY_TAG,
    TRIAL_TAG,
    best_tags,
    constants,
    fit_note,
    front_curve,
    front_note,
    kind_of,
    latency_tags,
)
from trainables.core import terminal
from trainables.core.config_base import digest
from trainables.core.files import is_writable
from trainables.core.metrics import Metrics
from trainables.core.progress import announce
from trainables.data.packed import PackedDataset
from trainables.training.setup import UnlabelledImages

logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # errors are reported here, in one line

MAX_CLASS_NAME = 200
"""Characters of a class name in the name of a metric, which MLflow limits to 250."""
COLOR_TAG = "mlflow.runColor"
STUDY_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#332288")
"""Colours of the runs of studies in charts, from the colour-blind-safe palette of Okabe & Ito."""
NOTE_TAG = "paretoseg.note"
"""The digest of the note that was written last, so that a user's own is known."""
MAX_PARAMS, MAX_METRICS = 100, 1000  # of one log_batch call
LOGGED_AT_END = {
    "size_bytes",
    "compressed_bytes",
    "changed_pixels",
    PREDICTED_SIZE,
    "num_params",
    "macs",
    "ram_bytes",
    "start_seconds",
    "parts",
}
"""Metrics that no epoch changes."""
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

    Writes are idempotent: data written twice, as after a failure, are stored once. A run takes back
    no param and no point of a curve; what is no longer true is said by a new one in its place.

    Args:
        study_id: identifies the study's runs; a name may be used twice.
        artifact_root: the artifact location of a store that has none of its own.
        tags: set on the runs of the study and of each of its trials.
        class_names: of the data, in order.
        settings: params of the study's run.
        objectives: those whose front is tagged; None for a comparison, which has no front.
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
        settings: Mapping[str, str],
        objectives: Sequence[Objective] | None = None,
    ) -> None:
        self.client = MlflowClient(tracking_uri)
        self.experiment, self.artifact_root = experiment, artifact_root
        self.database = database_of(tracking_uri)
        self.study_name, self.study_id = study_name, study_id
        self.tags = {STUDY_TAG: study_name, STUDY_ID_TAG: study_id, **tags}
        self.class_metrics = class_metrics(class_names)
        self.settings, self.objectives = settings, objectives
        self.is_behind = False
        """Whether the store lacks part of the record."""
        self.statuses: dict[str, str] = {}
        self.logged: dict[str, int] = {}
        self.params: dict[str, set[str]] = {}
        """The names of the params of runs that an earlier driver wrote."""
        self.on_front: dict[str, bool] = {}
        """Whether a trial is tagged as one of the front, where it is known."""
        self.finished: dict[str, Record] = {}
        self.is_replaced = False
        """Whether an earlier run of the study is still there."""

    @cached_property
    def experiment_id(self) -> str:
        """The id of the data set's experiment, which is created or restored if necessary."""
        known = self.client.get_experiment_by_name(self.experiment)
        location = self.artifact_root.resolve().as_uri() if self.database else None
        if known is None:
            return str(self.client.create_experiment(self.experiment, location))
        if known.lifecycle_stage == LifecycleStage.DELETED:  # by a user: it accepts no runs then
            self.client.restore_experiment(known.experiment_id)
        if self.database and self.database.parent == self.artifact_root.parent:
            repair_artifacts(self.database, self.artifact_root)  # the storage may have moved
        return str(known.experiment_id)

    @cached_property
    def runs(self) -> dict[str, str]:
        """The ids of the study's runs by trial, its own by "study"."""
        found: dict[str, str] = {}
        for run in search_runs(self.client, [self.experiment_id], self.study_id):
            trial = run.data.tags[TRIAL_TAG]
            if trial in found:  # newer ones come first
                self.is_replaced |= trial == "study"
                continue
            found[trial] = run.info.run_id
            if KIND_TAG not in run.data.tags:  # of version 0.2
                self._log_tags(run.info.run_id, {KIND_TAG: kind_of(trial)})
            self.statuses[trial] = run.info.status
            self.params[trial] = set(run.data.params)
            if front := run.data.tags.get(FRONT_TAG):
                self.on_front[trial] = front == "true"
        return found

    @cached_property
    def color(self) -> str:
        """The colour of all runs of the study in charts, where MLflow's own may be the same."""
        if "study" in self.runs:
            tags = self.client.get_run(self.runs["study"]).data.tags
            if COLOR_TAG in tags:
                return str(tags[COLOR_TAG])
        query = f"tags.{KIND_TAG} = 'study'"
        others = self.client.search_runs([self.experiment_id], query, ViewType.ALL)
        return STUDY_COLORS[len(others) % len(STUDY_COLORS)]

    @cached_property
    def study_run(self) -> str:
        """The id of the study's own run."""
        if "study" not in self.runs:
            self.runs["study"] = self._create("study", {})
        if self.is_replaced:  # by a driver that died before it had finished
            self._succeed(self.runs["study"])
        said = self.client.get_run(self.runs["study"]).data.params
        # What contradicts it is said by another run once there is something to report
        new = {name: value for name, value in self.settings.items() if name not in said}
        self._log_params(self.runs["study"], new)
        self.client.update_run(self.runs["study"], status="RUNNING")
        return self.runs["study"]

    @property
    def page(self) -> str:
        """The path of the runs in MLflow's pages, which open on traces of language models."""
        experiment_id = vars(self).get("experiment_id")  # only if known: MLflow might not answer
        if experiment_id is None:
            return ""
        if self.objectives is None:
            return f"#/experiments/{experiment_id}/runs{TRAINING}"
        return view_path(experiment_id, STUDIES)

    def deliver(self, events: Sequence[Event]) -> None:
        """Writes the events of one trial, in as few calls as possible."""
        last, kinds = events[-1], {event.kind for event in events}
        trial_id, status = last.record.trial_id, STATUS[last.record.state]
        run = self._run(last.record)
        params = written_params(last.record.params)
        is_known = self.statuses.get(trial_id) == status and params.keys() <= self.params[trial_id]
        if kinds != {"replayed"} or not is_known:
            if kinds != {"reported"}:
                self._log_params(run, params)
                paths = short_names(last.record.params)
                self._log_tags(run, {PATH_TAG + name: path for path, name in paths.items()})
                self.params[trial_id] |= params.keys()
            self._log_metrics(last.record)
            if last.record.state != "RUNNING":
                self._end(last.record)
            elif self.statuses.get(trial_id) != status:
                self.client.update_run(run, status)
            self.statuses[trial_id] = status
        if last.record.state == "COMPLETE" and self.objectives:
            self.finished[trial_id] = last.record
            if kinds != {"replayed"}:
                self._tag_front(pareto_front(list(self.finished.values()), self.objectives))

    def _end(self, record: Record) -> None:
        run = self._run(record)
        tags = {"state": record.state, "reason": record.reason}
        if record.config:
            tags["recipe"] = record.config.recipe.name
            tags["student"] = record.config.student.describe()
        self._log_tags(run, tags)
        if record.state == "PAUSED":
            self.client.update_run(run, STATUS[record.state])
            return
        if record.metrics:
            values = record.metrics.model_dump(include=LOGGED_AT_END, exclude_none=True)
            self._log_last(record, values)
            if record.class_iou is not None:
                by_name = zip(self.class_metrics, record.class_iou, strict=True)
                self._log_last(record, {name: iou for name, iou in by_name if iou is not None})
        self.client.set_terminated(run, STATUS[record.state])

    def finish(
        self,
        records: Sequence[Record],
        file: StudyFile,
        metrics: dict[str, float],
        steps: Sequence[HypervolumePoint],
        interrupted: bool,
    ) -> None:
        """Tags the front, puts tables and plots on the study's run, and keeps the front's models.

        The steps of the hypervolume are device seconds; a resumed study writes the same steps.
        """
        assert self.objectives is not None
        for name in ("runs", "study_run"):  # a user may have deleted some
            vars(self).pop(name, None)
        folder = file.config.folder
        front = pareto_front(records, self.objectives)
        for record in records:
            self.deliver([Event("replayed", record)])
            late = {
                LATENCY_MS: record.latency_ms,
                OTHER_SEED_MIOU: record.other_seed_miou,
                COST: record.cost,
            }
            self._log_last(record, {k: v for k, v in late.items() if v is not None})
            if tags := latency_tags(record):
                self._log_tags(self._run(record), tags)
        self._tag_front(front)
        for member in front:
            masks = model_folder(folder, member.trial_id) / MASKS_PLOT
            self._log_picture(self._run(member), masks)
        grown = [
            Metric("hypervolume", step.hypervolume, step.time_ms, int(step.device_seconds))
            for step in steps
        ]
        self._describe({**constants(records), **self.settings}, [*front_curve(front), *grown])
        self._log_tags(self.study_run, best_tags(records))
        write_views(self.client, self.experiment_id)
        note = front_note(records, self.objectives, self._url_of)
        self._log_picture(self.study_run, folder / TEACHER_MASKS_PLOT)
        names = (TRIALS_TABLE, FRONT_TABLE, FRONT_PLOT, FRONT_PAGE, DIAGNOSTICS_PLOT, STUDY_FILE)
        self.end([folder / name for name in names], metrics, interrupted, note)
        if not interrupted:  # a user waits; a resumed study keeps them
            registry = registry_name(self.experiment)
            FrontModels(self.client, self.experiment_id, registry, file, self.runs).keep(front)

    def end(
        self, files: Sequence[Path], metrics: dict[str, float], interrupted: bool, note: str = ""
    ) -> None:
        """Puts files, numbers and a note in Markdown on the study's run, and ends it."""
        if self.objectives is None:
            self._describe(self.settings, [])
        for file in files:
            self.client.log_artifact(self.study_run, str(file))
        known, now = self.client.get_run(self.study_run).data.metrics, int(time.time() * 1000)
        numbers = {metric_name(name): value for name, value in metrics.items()}
        changed = [Metric(n, v, now, 0) for n, v in numbers.items() if known.get(n) != v]
        self._log_many(self.study_run, changed)
        if note:
            self._write_note(fit_note(note))
        self.client.set_terminated(self.study_run, "KILLED" if interrupted else "FINISHED")

    def _log_picture(self, run: str, file: Path) -> None:
        """Shows a picture among the charts of a run, if there is one."""
        if file.is_file() and not self.client.list_artifacts(run, "images"):
            with Image.open(file) as picture:
                self.client.log_image(run, picture, key=file.stem, step=0)

    def _write_note(self, note: str) -> None:
        """Writes a note on the study's run, but not over one that a user has written."""
        tags = self.client.get_run(self.study_run).data.tags
        if tags.get(NOTE_TAG) == digest(tags.get(MLFLOW_RUN_NOTE)) or not tags.get(MLFLOW_RUN_NOTE):
            self._log_tags(self.study_run, {MLFLOW_RUN_NOTE: note, NOTE_TAG: digest(note)})

    def _describe(self, params: Mapping[str, str], curves: Sequence[Metric]) -> None:
        """Says params and curves on the study's run, or on a new one where it says otherwise."""
        said = self.client.get_run(self.study_run).data.params
        new = {(metric.key, metric.step, metric.value) for metric in curves}
        old = {
            (metric.key, metric.step, metric.value)
            for key in {metric.key for metric in curves}
            for metric in self.client.get_metric_history(self.study_run, key)
        }
        if said.items() - params.items() or not old <= new:
            self._replace_study_run()
        self._log_params(self.study_run, params)
        self._log_many(self.study_run, curves)

    def _tag_front(self, front: Sequence[Record]) -> None:
        """Tags trials whose place on the front is another than their tag says."""
        members = {record.trial_id for record in front}
        for trial_id, run in self.runs.items():
            is_member = trial_id in members
            if trial_id == "study" or self.on_front.get(trial_id) == is_member:
                continue
            try:
                self.client.set_tag(run, FRONT_TAG, str(is_member).lower())
            except MlflowException:  # a user may have deleted it: ask for the runs again
                vars(self).pop("runs", None)
                raise
            self.on_front[trial_id] = is_member

    def _url_of(self, trial_id: str) -> str:
        """The path of a trial's run in MLflow's pages."""
        path = f"#/experiments/{self.experiment_id}/runs/{self.runs[trial_id]}"
        return path + TRAINING

    def _replace_study_run(self) -> None:
        """Lets a new run take the place of the study's, with the tags that users gave to it."""
        before = self.runs["study"]
        tags = self.client.get_run(before).data.tags
        own = {
            name: value
            for name, value in tags.items()
            if name in (MLFLOW_RUN_NOTE, COLOR_TAG) or not name.startswith("mlflow.")
        }
        after = self._create("study", own)
        self._succeed(after)
        self.runs["study"] = after
        vars(self)["study_run"] = after

    def _succeed(self, after: str) -> None:
        """Makes `after` the study's only run, and the parent of its trials."""
        runs = search_runs(self.client, [self.experiment_id], self.study_id)
        for run in runs:
            if run.data.tags.get(MLFLOW_PARENT_RUN_ID, after) != after:
                self.client.set_tag(run.info.run_id, MLFLOW_PARENT_RUN_ID, after)
        for run in runs:
            if run.data.tags[TRIAL_TAG] == "study" and run.info.run_id != after:
                self.client.delete_run(run.info.run_id)
        self.is_replaced = False

    def _log_metrics(self, record: Record) -> None:
        """Logs the metrics of the epochs that this driver has not logged yet."""
        logged = self.logged.get(record.trial_id, 0)
        reports = [report for report in record.history if report.epoch > logged]
        metrics = [metric for report in reports for metric in as_mlflow(report)]
        self._log_many(self._run(record), metrics)
        if reports:
            self.logged[record.trial_id] = reports[-1].epoch

    def _log_last(self, record: Record, values: Mapping[str, float]) -> None:
        """Logs values once, with the last report's epoch as step."""
        if record.metrics and values:
            epoch, now = record.metrics.epoch, record.metrics.time_ms
            metrics = [Metric(name, float(value), now, epoch) for name, value in values.items()]
            self._log_many(self._run(record), metrics)

    def _log_many(self, run: str, metrics: Sequence[Metric]) -> None:
        for first in range(0, len(metrics), MAX_METRICS):
            self.client.log_batch(run, metrics=metrics[first : first + MAX_METRICS])

    def _log_tags(self, run: str, values: Mapping[str, str]) -> None:
        self.client.log_batch(run, tags=[RunTag(name, value) for name, value in values.items()])

    def _log_params(self, run: str, values: Mapping[str, str]) -> None:
        params = [Param(name, value) for name, value in values.items()]
        for first in range(0, len(params), MAX_PARAMS):
            self.client.log_batch(run, params=params[first : first + MAX_PARAMS])

    def _run(self, record: Record) -> str:
        """The id of the trial's run, which is created at first use."""
        if record.trial_id not in self.runs:
            parent = {MLFLOW_PARENT_RUN_ID: self.study_run}
            self.runs[record.trial_id] = self._create(record.trial_id, parent)
            self.statuses[record.trial_id] = "RUNNING"
            self.params[record.trial_id] = set()
            self.logged.pop(record.trial_id, None)
            self.on_front.pop(record.trial_id, None)
        return self.runs[record.trial_id]

    def _create(self, trial: str, extra: dict[str, str]) -> str:
        name = self.study_name if trial == "study" else f"{self.study_name}/{trial}"
        own = {KIND_TAG: kind_of(trial), **self.tags, TRIAL_TAG: trial, MLFLOW_RUN_NAME: name}
        tags = {**extra, **own}
        if COLOR_TAG not in tags:
            tags[COLOR_TAG] = self.color
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
    values = metrics.model_dump(exclude=NON_TABLE_FIELDS | LOGGED_AT_END, exclude_none=True)
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
    query = f"tags.`{STUDY_ID_TAG}` = '{study_id}'"
    return all_pages(partial(client.search_runs, experiments, query))


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
