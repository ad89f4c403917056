"""MLflow's record: one run per trial, however often it is written."""

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import make_metrics, make_study_file
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from PIL import Image

from search.analysis.diagnostics import HypervolumePoint
from search.core.objectives import MIOU_AND_SIZE
from search.core.record import Record, RecordState
from search.core.tracking_uri import default_tracking_uri
from search.storage.layout import (
    DIAGNOSTICS_PLOT,
    FRONT_PAGE,
    FRONT_PLOT,
    FRONT_TABLE,
    STUDY_FILE,
    TRIALS_TABLE,
)
from search.tracking.callbacks import AsyncCallback, Event, Kind
from search.tracking.mlflow import (
    MlflowTracker,
    check_tracking,
    class_metrics,
    make_store,
    read_runs,
    search_runs,
)
from search.tracking.run_content import MAX_NOTE, constants, escape_cell, fit_note, front_note
from trainables.config import TrialConfig
from trainables.core.config_base import Leaf
from trainables.recipes.configs import Qat

CLASSES = ("sky", "a/b", "tree")
IOU = (0.5, 0.0, None)
PARAMS: dict[str, Leaf] = {
    "recipe.quantizer.weight_bits": 4,
    "student.width": 8,
    "recipe.optimizer.learning_rate": 0.0012345678,
    "recipe.losses.extra.name": None,
}


def record(trial_id: str = "0000", epoch: int = 2, state: RecordState = "COMPLETE") -> Record:
    """A trial after so many epochs."""
    finished = state == "COMPLETE"
    history = [
        make_metrics(0.1 * n, 1000 if finished else None, n, class_iou=IOU)
        for n in range(1, epoch + 1)
    ]
    reports = {metrics.epoch: metrics for metrics in history}
    config = TrialConfig(recipe=Qat())
    last = history[-1] if history else None
    return Record(trial_id, state, "", config, last, reports=reports, params=PARAMS)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def track(
    uri: str, study: str, tmp_path: Path, settings: dict[str, str] | None = None
) -> MlflowTracker:
    return MlflowTracker(
        uri,
        "blocks 32x32",
        study,
        f"id of {study}",
        tmp_path,
        {"space": "qat"},
        CLASSES,
        settings or {"samples": "2"},
        MIOU_AND_SIZE,
    )


def finished(trial_id: str, miou: float, size_bytes: int, epoch: int = 2) -> Record:
    """A trial that has ended with this mIoU and size."""
    history = [make_metrics(miou * n / epoch, None, n, class_iou=IOU) for n in range(1, epoch)]
    last = make_metrics(miou, size_bytes, epoch, class_iou=IOU)
    reports = {metrics.epoch: metrics for metrics in [*history, last]}
    return replace(record(trial_id), metrics=last, reports=reports)


def finish(tracking: MlflowTracker, records: Sequence[Record], folder: Path) -> Run:
    """The study's run after its end."""
    for name in (TRIALS_TABLE, FRONT_TABLE, FRONT_PLOT, FRONT_PAGE, DIAGNOSTICS_PLOT, STUDY_FILE):
        (folder / name).write_text("")
    steps = [HypervolumePoint(1.0, 0.1, 1000)]
    file = make_study_file(folder)
    tracking.finish(records, file, {"best_miou": 0.5}, steps, interrupted=False)
    return tracking.client.get_run(tracking.study_run)


def tags_of(tracking: MlflowTracker, name: str) -> dict[str, str | None]:
    """A tag of each trial's run."""
    return {
        run.data.tags["paretoseg.trial"]: run.data.tags.get(name)
        for run in search_runs(tracking.client, [tracking.experiment_id], tracking.study_id)
        if run.data.tags["paretoseg.trial"] != "study"
    }


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
    assert run.data.params == {
        "weight_bits": "4",
        "width": "8",
        "learning_rate": "0.001235",
        "extra": "None",
    }
    assert run.data.tags["path.weight_bits"] == "recipe.quantizer.weight_bits"
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
    tracking = track("http://127.0.0.1:1", "s", tmp_path)
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


def test_costs_are_logged_once(uri: str, tmp_path: Path) -> None:
    tracking = track(uri, "costs", tmp_path)
    tracking.deliver([Event("reported", record(epoch=2, state="RUNNING"))])
    tracking.deliver([Event("ended", record(epoch=3))])
    run = only_run(uri, tracking, "costs")
    lengths = {
        name: len(tracking.client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }
    assert {name for name, length in lengths.items() if length == 3} == {
        "miou",
        "pixel_accuracy",
        "classes_never_predicted",
        "device_seconds",
        "loss.cross_entropy",
    }
    assert {"size_bytes", "macs", "num_params", "iou.sky"} <= {
        name for name, length in lengths.items() if length == 1
    }


def test_the_front_is_tagged_while_the_study_runs(uri: str, tmp_path: Path) -> None:
    tracking = track(uri, "live", tmp_path)
    tracking.deliver([Event("ended", finished("0000", 0.3, 2000))])
    tracking.deliver([Event("started", record("0001", 0, "RUNNING"))])
    assert tags_of(tracking, "front")["0000"] == "true"
    tracking.deliver([Event("ended", finished("0002", 0.4, 1000))])
    assert tags_of(tracking, "front") == {"0000": "false", "0001": "false", "0002": "true"}
    other = track(uri, "live", tmp_path)  # a driver that goes on
    for record_ in (finished("0000", 0.3, 2000), finished("0002", 0.4, 1000)):
        other.deliver([Event("replayed", record_)])
    other.deliver([Event("ended", finished("0001", 0.2, 500))])
    assert tags_of(tracking, "front") == {"0000": "false", "0001": "true", "0002": "true"}


def test_a_study_says_its_settings_its_front_and_its_numbers(uri: str, tmp_path: Path) -> None:
    tracking = track(uri, "told", tmp_path)
    records = [finished("0000", 0.3, 100_000), finished("0001", 0.5, 250_000)]
    run = finish(tracking, records, tmp_path)
    assert run.data.params["samples"] == "2"
    assert run.data.params["recipe.name"] == "qat"
    assert "recipe.quantizer.weight_bits" not in run.data.params  # it was sampled
    assert run.data.metrics["best_miou"] == 0.5
    curve = {
        name: [(m.step, m.value) for m in tracking.client.get_metric_history(run.info.run_id, name)]
        for name in ("front.miou", "front.size_kb")
    }
    assert curve == {
        "front.miou": [(1, 0.3), (2, 0.5)],
        "front.size_kb": [(1, 100.0), (2, 250.0)],
    }
    note = run.data.tags["mlflow.note.content"]
    assert f"[0001](#/experiments/{tracking.experiment_id}/runs/{tracking.runs['0001']}" in note
    assert "| 50.0 | 250 KB | 4/4 | unet 16 |" in note
    assert note.startswith(
        "Best mIoU within 100 KB: 30.0 % (0000, 100 KB); within 300 KB: 50.0 % (0001, 250 KB); "
    )
    assert run.data.tags["within 300 KB"] == "50.0 % (0001, 250 KB)"
    assert "within 50 KB" not in run.data.tags


def test_a_study_that_goes_on_says_what_is_true_now(uri: str, tmp_path: Path) -> None:
    """MLflow lets nobody change a param or a point of a curve: a new run takes the place."""
    first = track(uri, "grown", tmp_path)
    records = [finished("0000", 0.3, 100_000)]
    before = finish(first, records, tmp_path)
    first.client.set_tag(before.info.run_id, "of a user", "kept")
    again = finish(track(uri, "grown", tmp_path), records, tmp_path)
    assert again.info.run_id == before.info.run_id
    second = track(uri, "grown", tmp_path, {"samples": "3"})
    after = finish(second, [*records, finished("0001", 0.5, 50_000)], tmp_path)
    assert after.info.run_id != before.info.run_id
    assert after.data.params["samples"] == "3"
    assert after.data.tags["of a user"] == "kept"
    sizes = second.client.get_metric_history(after.info.run_id, "front.size_kb")
    assert [(metric.step, metric.value) for metric in sizes] == [(1, 50.0)]
    assert set(tags_of(second, "mlflow.parentRunId").values()) == {after.info.run_id}
    assert tags_of(second, "front") == {"0000": "false", "0001": "true"}
    assert second.client.get_run(before.info.run_id).info.lifecycle_stage == "deleted"


def test_a_replacement_that_was_not_finished_is_finished(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [finished("0000", 0.3, 100_000)]
    before = finish(track(uri, "half", tmp_path), records, tmp_path)
    second = track(uri, "half", tmp_path, {"samples": "3"})
    assert second.study_run == before.info.run_id  # as long as there is nothing else to report
    monkeypatch.setattr(MlflowTracker, "_succeed", fail)
    with pytest.raises(TimeoutError):
        finish(second, records, tmp_path)
    monkeypatch.undo()
    third = track(uri, "half", tmp_path, {"samples": "3"})
    after = finish(third, records, tmp_path)
    assert after.info.run_id != before.info.run_id
    assert set(tags_of(third, "mlflow.parentRunId").values()) == {after.info.run_id}
    runs = search_runs(third.client, [third.experiment_id], third.study_id)
    assert [r.info.run_id for r in runs if r.data.tags["paretoseg.trial"] == "study"] == [
        after.info.run_id
    ]


def fail(*_: object) -> None:
    raise TimeoutError


def test_a_better_model_of_equal_size_makes_a_new_curve(uri: str, tmp_path: Path) -> None:
    first = finish(track(uri, "equal", tmp_path), [finished("0000", 0.3, 1000)], tmp_path)
    records = [finished("0000", 0.3, 1000), finished("0001", 0.4, 1000)]
    tracking = track(uri, "equal", tmp_path)
    after = finish(tracking, records, tmp_path)
    assert after.info.run_id != first.info.run_id
    mious = tracking.client.get_metric_history(after.info.run_id, "front.miou")
    assert [metric.value for metric in mious] == [0.4]


def test_what_no_longer_is_constant_is_not_said(uri: str, tmp_path: Path) -> None:
    one = finished("0000", 0.3, 1000)
    assert finish(track(uri, "lone", tmp_path), [one], tmp_path).data.params["batch_size"] == "8"
    other = TrialConfig(recipe=Qat(), batch_size=4)
    records = [one, replace(finished("0001", 0.4, 2000), config=other)]
    assert "batch_size" not in finish(track(uri, "lone", tmp_path), records, tmp_path).data.params


def test_masks_that_come_late_are_shown(uri: str, tmp_path: Path) -> None:
    """As where the first report was of an interrupted study."""
    records = [finished("0000", 0.3, 1000)]
    tracking = track(uri, "late", tmp_path)
    finish(tracking, records, tmp_path)
    assert tracking.client.list_artifacts(tracking.runs["0000"], "images") == []
    (tmp_path / "models/0000").mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(tmp_path / "models/0000/masks.png")
    for _ in range(2):
        finish(track(uri, "late", tmp_path), records, tmp_path)
    images = tracking.client.list_artifacts(tracking.runs["0000"], "images")
    assert sum(each.path.endswith(".png") for each in images) == 1


def test_models_of_the_front_are_kept_once_the_study_has_ended(
    uri: str, tmp_path: Path, study: Path
) -> None:
    records, steps = [finished("0000", 0.3, 1000)], [HypervolumePoint(1.0, 0.1, 1000)]
    tracking = track(uri, "models", tmp_path)
    finish(tracking, records, tmp_path)  # its model file is missing
    shutil.copytree(study / "models/0000", tmp_path / "models/0000")
    query = f"tags.`paretoseg.study_id` = '{make_study_file(tmp_path).id}'"
    for interrupted, number in ((True, 0), (False, 1)):
        tracking.finish(records, make_study_file(tmp_path), {}, steps, interrupted)
        found = tracking.client.search_logged_models([tracking.experiment_id], query)
        assert len(found) == number
    assert found[0].source_run_id == tracking.runs["0000"]
    assert tracking.client.get_run(tracking.study_run).info.status == "FINISHED"


def test_a_trial_that_a_user_deletes_while_the_study_runs_is_written_again(
    uri: str, tmp_path: Path
) -> None:
    tracking = track(uri, "gone", tmp_path)
    first, second = finished("0000", 0.3, 2000), finished("0001", 0.4, 1000)
    tracking.deliver([Event("ended", first)])
    tracking.client.delete_run(tracking.runs["0000"])
    with pytest.raises(MlflowException):
        tracking.deliver([Event("ended", second)])
    tracking.deliver([Event("ended", second)])
    finish(tracking, [first, second], tmp_path)
    assert tags_of(tracking, "front") == {"0000": "false", "0001": "true"}


def test_runs_of_an_older_version_get_their_kind(uri: str, tmp_path: Path) -> None:
    tracking = track(uri, "kindless", tmp_path)
    finish(tracking, [finished("0000", 0.3, 1000)], tmp_path)
    for run in tracking.runs.values():
        tracking.client.delete_tag(run, "kind")
    again = track(uri, "kindless", tmp_path)
    assert set(tags_of(again, "kind").values()) == {None}
    assert again.runs
    assert set(tags_of(again, "kind").values()) == {"trial"}
    assert again.client.get_run(again.study_run).data.tags["kind"] == "study"


def test_a_note_of_a_user_is_kept(uri: str, tmp_path: Path) -> None:
    tracking = track(uri, "noted", tmp_path)
    run = finish(tracking, [finished("0000", 0.3, 100_000)], tmp_path)
    assert run.data.tags["mlflow.note.content"].startswith("Best mIoU within")
    tracking.client.set_tag(run.info.run_id, "mlflow.note.content", "mine")
    after = finish(track(uri, "noted", tmp_path), [finished("0000", 0.3, 100_000)], tmp_path)
    assert after.data.tags["mlflow.note.content"] == "mine"


def test_runs_of_an_older_version_get_short_names(uri: str, tmp_path: Path) -> None:
    tracking = track(uri, "long", tmp_path)
    tracking.deliver([Event("replayed", replace(record(), params={}))])
    tracking.client.log_param(tracking.runs["0000"], "recipe.quantizer.weight_bits", "4")
    later = track(uri, "long", tmp_path)
    later.deliver([Event("replayed", record())])
    params = only_run(uri, later, "long").data.params
    assert params["weight_bits"] == params["recipe.quantizer.weight_bits"] == "4"


def test_constants_are_what_no_space_has_sampled() -> None:
    one = replace(record(), config=TrialConfig(recipe=Qat(), batch_size=4))
    found = constants([one, replace(one, config=TrialConfig(recipe=Qat(), batch_size=4, seed=1))])
    assert found["batch_size"] == "4"
    assert "seed" not in found
    assert "student.width" not in found
    assert constants([]) == constants([replace(one, config=None)]) == {}


def test_names_in_notes_are_text() -> None:
    config = TrialConfig(recipe=Qat())
    assert front_note([], MIOU_AND_SIZE, str) == "No trial has finished."
    note = front_note([replace(finished("0000", 0.3, 1000), config=config)], MIOU_AND_SIZE, str)
    assert note.splitlines()[4].startswith("| [0000](0000) | 30.0 | 1.00 KB |")
    assert escape_cell("mobilenet_v2|<b>") == r"mobilenet\_v2\|\<b\>"
    long = "\n".join(["| row |"] * 2000)
    assert len(fit_note(long)) <= MAX_NOTE
    assert fit_note(long).endswith("| row |\n\n(The rest is in the artifacts.)")


def test_runs_that_a_user_has_deleted_are_written_again_at_the_end(
    uri: str, tmp_path: Path
) -> None:
    """Also those of which nothing would have been written."""
    tracking = track(uri, "deleted", tmp_path)
    records = [finished("0000", 0.3, 1000), finished("0001", 0.2, 2000)]
    for each in records:
        tracking.deliver([Event("ended", each)])
    for name in ("0001", "study"):
        tracking.client.delete_run(tracking.runs[name])
    after = finish(tracking, records, tmp_path)
    assert after.info.status == "FINISHED"
    found = {run.trial: run for run in read_runs(uri, "id of deleted")}
    assert set(found) == {"0000", "0001"}
    assert found["0001"].epochs == (1, 2)
    assert tags_of(tracking, "front") == {"0000": "true", "0001": "false"}
