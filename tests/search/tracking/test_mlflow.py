"""MLflow's record: one run per trial, however often it is written."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import make_metrics
from mlflow import MlflowClient
from mlflow.entities import Run

from search.core.record import Record, RecordState
from search.core.tracking_uri import default_tracking_uri
from search.tracking.callbacks import AsyncCallback, Event, Kind
from search.tracking.mlflow import (
    MlflowTracker,
    check_tracking,
    class_metrics,
    make_store,
    read_runs,
)
from trainables.config import TrialConfig
from trainables.recipes.configs import Qat

CLASSES = ("sky", "a/b", "tree")
IOU = (0.5, 0.0, None)


def record(trial_id: str = "0000", epoch: int = 2, state: RecordState = "COMPLETE") -> Record:
    """A trial after so many epochs."""
    finished = state == "COMPLETE"
    history = [
        make_metrics(0.1 * n, 1000 if finished else None, n, class_iou=IOU)
        for n in range(1, epoch + 1)
    ]
    reports = {metrics.epoch: metrics for metrics in history}
    config = TrialConfig(recipe=Qat())
    return Record(trial_id, state, "", config, history[-1] if history else None, reports=reports)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def track(uri: str, study: str, tmp_path: Path) -> MlflowTracker:
    tags = {"space": "qat"}
    return MlflowTracker(uri, "blocks 32x32", study, f"id of {study}", tmp_path, tags, CLASSES)


def only_run(uri: str, tracking: MlflowTracker, study: str) -> Run:
    """MLflow's run of the study's one trial."""
    query = f"tags.`paretoseg.study` = '{study}' and tags.`paretoseg.trial` = '0000'"
    (run,) = MlflowClient(uri).search_runs([tracking.experiment_id], query)
    return run


def epochs(uri: str, run: Run) -> list[int]:
    return [metric.step for metric in MlflowClient(uri).get_metric_history(run.info.run_id, "miou")]


def test_a_trial_is_one_run_across_drivers(uri: str, tmp_path: Path) -> None:
    first = track(uri, "one", tmp_path)
    first.deliver([Event("started", record(epoch=0, state="RUNNING"))])
    first.deliver([Event("reported", record(epoch=1, state="RUNNING"))])
    second = track(uri, "one", tmp_path)  # the first driver died, and knew more
    for _ in range(2):
        second.deliver([Event("replayed", record(epoch=3))])
    third = track(uri, "one", tmp_path)
    third.deliver([Event("replayed", record(epoch=3))])
    assert third.study_run == second.study_run == first.study_run
    run = only_run(uri, second, "one")
    assert run.info.status == "FINISHED"
    assert run.data.tags["state"] == "COMPLETE"
    assert run.data.tags["mlflow.parentRunId"] == second.study_run
    assert run.data.params["recipe.quantizer.weight_bits"] == "4"
    assert run.data.metrics["miou"] == pytest.approx(0.3)
    assert epochs(uri, run) == [1, 2, 3]
    assert run.data.metrics["loss.cross_entropy"] == 1


def test_a_paused_trial_goes_on_as_the_same_run(uri: str, tmp_path: Path) -> None:
    first = track(uri, "pause", tmp_path)
    first.deliver([Event("started", record(epoch=0, state="RUNNING"))])
    first.deliver([Event("ended", record(epoch=2, state="PAUSED"))])
    assert only_run(uri, first, "pause").info.status == "SCHEDULED"
    second = track(uri, "pause", tmp_path)
    second.deliver([Event("replayed", record(epoch=2, state="PAUSED"))])
    second.deliver([Event("started", record(epoch=2, state="RUNNING"))])
    assert only_run(uri, second, "pause").info.status == "RUNNING"
    second.deliver([Event("ended", record(epoch=3))])
    run = only_run(uri, second, "pause")
    assert (run.info.status, run.data.tags["state"]) == ("FINISHED", "COMPLETE")
    assert epochs(uri, run) == [1, 2, 3]


def test_the_iou_of_classes_is_logged_once_at_the_end(uri: str, tmp_path: Path) -> None:
    tracking, client = track(uri, "classes", tmp_path), MlflowClient(uri)
    tracking.deliver([Event("reported", record(epoch=2, state="RUNNING"))])
    tracking.deliver([Event("ended", record(epoch=2, state="PAUSED"))])
    metrics = only_run(uri, tracking, "classes").data.metrics
    assert metrics["classes_never_predicted"] == 1
    assert not any(name.startswith("iou.") for name in metrics)
    for _ in range(2):
        tracking.deliver([Event("ended", record(epoch=3))])
    run = only_run(uri, tracking, "classes")
    iou = {name: value for name, value in run.data.metrics.items() if name.startswith("iou.")}
    assert iou == {"iou.sky": 0.5, "iou.a_b": 0.0}
    history = client.get_metric_history(run.info.run_id, "iou.sky")
    assert [metric.step for metric in history] == [3]
    missed = client.get_metric_history(run.info.run_id, "classes_never_predicted")
    assert [metric.step for metric in missed] == [1, 2, 3]


def test_a_trial_without_the_iou_of_classes_is_logged(uri: str, tmp_path: Path) -> None:
    """As in a journal of an older version."""
    metrics = make_metrics(0.1, 1000)
    old = replace(record(), metrics=metrics, reports={1: metrics})
    tracking = track(uri, "older", tmp_path)
    tracking.deliver([Event("replayed", old)])
    run = only_run(uri, tracking, "older")
    assert run.info.status == "FINISHED"
    assert not any("iou." in name or "never" in name for name in run.data.metrics)


def test_names_of_classes_are_made_names_of_metrics(uri: str) -> None:
    names = ["road", "a/b", "a_b", "Straße 1", "naïve: <x>", "..", "long " * 60]
    metrics = class_metrics(names)
    assert metrics[:6] == [
        "iou.road",
        "iou.a_b_1",
        "iou.a_b_2",
        "iou.Straße 1",
        "iou.naïve_ _x_",
        "iou...",
    ]
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("names")).info.run_id
    for name in metrics:
        client.log_metric(run, name, 1.0)
    assert set(client.get_run(run).data.metrics) == set(metrics)


@pytest.mark.parametrize(
    ("state", "status"), [("COMPLETE", "FINISHED"), ("PRUNED", "KILLED"), ("FAIL", "FAILED")]
)
def test_how_a_trial_ended_is_the_status_of_its_run(
    state: RecordState, status: str, uri: str, tmp_path: Path
) -> None:
    tracking = track(uri, state, tmp_path)
    tracking.deliver([Event("started", record(epoch=0, state="RUNNING"))])
    tracking.deliver([Event("ended", record(epoch=2, state=state))])
    run = only_run(uri, tracking, state)
    assert (run.info.status, run.data.tags["state"]) == (status, state)
    assert run.info.end_time


def test_studies_of_one_data_set_share_an_experiment(uri: str, tmp_path: Path) -> None:
    first, second = track(uri, "left", tmp_path), track(uri, "right", tmp_path)
    assert first.experiment_id == second.experiment_id
    assert first.study_run != second.study_run


def test_a_trial_that_died_before_its_configuration_is_a_run_too(uri: str, tmp_path: Path) -> None:
    tracking = track(uri, "early", tmp_path)
    dead = Record("0000", "FAIL", "the space failed", None, None)
    tracking.deliver([Event("replayed", dead)])
    run = only_run(uri, tracking, "early")
    assert run.info.status == "FAILED"
    assert run.data.tags["reason"] == "the space failed"


def test_what_is_delivered_again_is_there_once(uri: str, tmp_path: Path) -> None:
    """As after a failure whose work was half done, by a driver that does not know."""
    kinds: list[Kind] = ["started", "reported", "reported", "ended"]
    states: list[RecordState] = ["RUNNING", "RUNNING", "RUNNING", "COMPLETE"]
    for _ in range(2):
        tracking = track(uri, "again", tmp_path)
        for number, (kind, state) in enumerate(zip(kinds, states, strict=True)):
            event = Event(kind, record(epoch=min(number, 2), state=state))
            tracking.deliver([event, event])
    run = only_run(uri, tracking, "again")
    assert epochs(uri, run) == [1, 2]
    assert run.info.status == "FINISHED"


def test_a_run_that_was_made_without_an_answer_is_found(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = track(uri, "unheard", tmp_path)
    create = tracking.client.create_run

    def time_out(*args: Any, **kwargs: Any) -> None:
        create(*args, **kwargs)
        monkeypatch.undo()
        raise TimeoutError

    assert tracking.study_run
    monkeypatch.setattr(tracking.client, "create_run", time_out)
    with pytest.raises(TimeoutError):
        tracking.deliver([Event("ended", record())])
    tracking.deliver([Event("ended", record())])
    assert only_run(uri, tracking, "unheard").info.status == "FINISHED"


def test_nothing_is_asked_of_a_store_before_there_is_something_to_write(tmp_path: Path) -> None:
    tracking = MlflowTracker("http://127.0.0.1:1", "e", "s", "id", tmp_path, {}, CLASSES)
    assert tracking.page == ""


def test_a_store_that_does_not_answer_may_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    check_tracking("http://127.0.0.1:1", tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not answer now and is tried again later" in line


@pytest.mark.slow
def test_a_locked_store_may_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    make_store(uri)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        check_tracking(uri, tmp_path)
    assert "tried again later" in capsys.readouterr().err


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database, " * 100)
    for uri in ("ftp://x", f"sqlite:///{tmp_path / 'mlflow.db'}"):
        with pytest.raises(ValueError, match="must name an MLflow store"):
            check_tracking(uri, tmp_path)


def test_what_a_broken_store_says_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "mlflow.db"
    make_store(f"sqlite:///{database}")
    tracking = track(f"sqlite:///{database}", "broken", tmp_path)
    tracking.deliver([Event("started", record(epoch=0, state="RUNNING"))])
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DROP TABLE metrics")
    callback = AsyncCallback(tracking)
    callback.reported(record(epoch=1, state="RUNNING"))
    assert not callback.close(10)
    error = "(sqlite3.OperationalError) no such table: metrics"
    assert capfd.readouterr().err == f"the record in MLflow is behind and tried again: {error}\n"


def test_a_driver_that_is_not_installed_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"must name an MLflow store, .*psycopg.* needs: install it"
    ):
        check_tracking("postgresql://127.0.0.1/mlflow", tmp_path)


def test_a_database_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"database must exist, but there is no .*/gone"):
        check_tracking(f"sqlite:///{tmp_path / 'gone/mlflow.db'}", tmp_path)
    assert list(tmp_path.iterdir()) == []
    uri = f"sqlite:///{tmp_path / 'storage/mlflow.db'}"
    check_tracking(uri, tmp_path / "storage")
    assert list(tmp_path.iterdir()) == []
    make_store(uri)
    assert (tmp_path / "storage/mlflow.db").is_file()


def test_options_that_a_new_store_does_not_take_are_refused(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}?timeout=never"
    check_tracking(uri, tmp_path)
    with pytest.raises(ValueError, match=r"must name an MLflow store, but .*never"):
        make_store(uri)


def test_a_store_lies_where_its_path_says(tmp_path: Path) -> None:
    folder = tmp_path / "a?b%2Fc%d#e"
    folder.mkdir()
    uri = default_tracking_uri(folder)
    make_store(uri)
    tracking = track(uri, "odd", tmp_path / "artifacts")
    tracking.deliver([Event("replayed", record())])
    assert (folder / "mlflow.db").is_file()
    assert {path.name for path in tmp_path.iterdir()} <= {folder.name, "artifacts"}
    assert [run.trial for run in read_runs(uri, "id of odd")] == ["0000"]


def test_a_deleted_experiment_is_restored(uri: str, tmp_path: Path) -> None:
    first = track(uri, "deleted", tmp_path)
    first.deliver([Event("replayed", record(epoch=2, state="PAUSED"))])
    MlflowClient(uri).delete_experiment(first.experiment_id)  # as in MLflow's pages
    second = track(uri, "deleted", tmp_path)
    second.deliver([Event("replayed", record(epoch=3))])
    assert second.experiment_id == first.experiment_id
    (run,) = read_runs(uri, "id of deleted")
    assert (run.state, run.epochs) == ("COMPLETE", (1, 2, 3))
