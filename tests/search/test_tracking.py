"""MLflow's record: one run per trial, however often it is written."""

from pathlib import Path

import pytest
from factories import make_metrics
from mlflow import MlflowClient

from search.delivery import Event, Kind
from search.record import Record
from search.tracking import Tracking
from trainables.config import TrialConfig
from trainables.recipes import Qat


def record(trial_id: str = "0000", epoch: int = 2, finished: bool = True) -> Record:
    metrics = make_metrics(0.1 * epoch, 1000 if finished else None, epoch)
    state = "COMPLETE" if finished else "RUNNING"
    return Record(trial_id, state, "", TrialConfig(recipe=Qat()), metrics)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def track(uri: str, study: str, tmp_path: Path) -> Tracking:
    return Tracking(uri, "blocks 32x32", study, f"id of {study}", tmp_path, {"space": "qat"})


def test_a_trial_is_one_run_across_drivers(uri: str, tmp_path: Path) -> None:
    first = track(uri, "one", tmp_path)
    first.deliver([Event("started", record(epoch=1, finished=False), 1)])
    first.deliver([Event("reported", record(epoch=1, finished=False), 2)])
    second = track(uri, "one", tmp_path)  # the first driver died
    second.replay(record())
    second.replay(record())
    assert second.study_run == first.study_run
    client = MlflowClient(uri)
    query = "tags.`paretoseg.study` = 'one' and tags.`paretoseg.trial` = '0000'"
    (run,) = client.search_runs([second.experiment_id], query)
    assert run.info.status == "FINISHED"
    assert run.data.tags["state"] == "COMPLETE"
    assert run.data.tags["mlflow.parentRunId"] == second.study_run
    assert run.data.params["recipe.quantizer.weight_bits"] == "4"
    assert run.data.metrics["miou"] == pytest.approx(0.2)
    history = client.get_metric_history(run.info.run_id, "miou")
    assert [metric.step for metric in history] == [1, 2]
    assert run.data.metrics["loss.cross_entropy"] == 1


def test_studies_of_one_data_set_share_an_experiment(uri: str, tmp_path: Path) -> None:
    first, second = track(uri, "left", tmp_path), track(uri, "right", tmp_path)
    assert first.experiment_id == second.experiment_id
    assert first.study_run != second.study_run


def test_a_trial_that_died_before_its_configuration_is_a_run_too(uri: str, tmp_path: Path) -> None:
    tracking = track(uri, "early", tmp_path)
    tracking.replay(Record("0000", "FAIL", "interrupted", None, None))
    query = "tags.`paretoseg.study` = 'early' and tags.`paretoseg.trial` = '0000'"
    (run,) = MlflowClient(uri).search_runs([tracking.experiment_id], query)
    assert run.info.status == "FAILED"
    assert run.data.tags["reason"] == "interrupted"


def test_events_of_a_trial_are_delivered_together(uri: str, tmp_path: Path) -> None:
    tracking = track(uri, "together", tmp_path)
    epochs = [record(epoch=epoch, finished=epoch == 3) for epoch in (1, 2, 3)]
    kinds: list[Kind] = ["started", "reported", "ended"]
    events = [Event(*each) for each in zip(kinds, epochs, (1, 2, 3), strict=True)]
    tracking.deliver(events)
    tracking.deliver(events)  # as after a failure whose work was half done
    client = MlflowClient(uri)
    (run,) = client.search_runs(
        [tracking.experiment_id],
        "tags.`paretoseg.study` = 'together' and tags.`paretoseg.trial` = '0000'",
    )
    history = client.get_metric_history(run.info.run_id, "miou")
    assert [metric.step for metric in history] == [2, 3]
    assert run.info.status == "FINISHED"
