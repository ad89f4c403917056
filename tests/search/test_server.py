"""MLflow's server with a password, as a user starts it on the head of a cluster."""

import re
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from factories import make_metrics
from mlflow import MlflowClient
from web_commands import serving

from search.core.objectives import MIOU_AND_SIZE
from search.core.record import Record
from search.server import USERS, find_password, main
from search.tracking.callbacks import AsyncCallback
from search.tracking.mlflow import MlflowTracker
from search.tracking.run_content import STUDY_TAG
from search.tracking.web_server import choose_port
from trainables.config import TrialConfig
from trainables.recipes.configs import Qat

NUM_TRIALS = 5


@contextmanager
def server(folder: Path, home: Path) -> Iterator[str]:
    """The address at which the command serves; ends it as a service manager does."""
    port = str(choose_port(None, 5600))
    argv = ["search.server", str(folder), "--port", port]
    with serving(*argv, number=signal.SIGTERM, HOME=str(home)) as lines:
        said = "\n".join(lines)
        found = re.search("export MLFLOW_TRACKING_URI=(http://127.0.0.1:[0-9]+)\n", said)
        assert found, said
        yield found[1]


@pytest.mark.slow
def test_two_drivers_at_once_deliver_whole_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with server(tmp_path / "mlflow", tmp_path) as address:
        credentials = tmp_path / ".mlflow" / "credentials"
        assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
        search = Request(
            f"{address}/api/2.0/mlflow/experiments/search",
            data=b'{"max_results": 1}',
            headers={"Content-Type": "application/json"},
        )
        with pytest.raises(HTTPError, match="401"):
            urlopen(search)

        drivers = [
            threading.Thread(target=deliver, args=(address, f"study-{number}", tmp_path))
            for number in range(2)
        ]
        for driver in drivers:
            driver.start()
        for driver in drivers:
            driver.join()
        client = MlflowClient(address)
        (experiment,) = client.search_experiments(filter_string="name = 'blocks'")
        runs = client.search_runs([experiment.experiment_id])
        for number in range(2):
            of_study = [r for r in runs if r.data.tags.get(STUDY_TAG) == f"study-{number}"]
            trials = [run for run in of_study if "miou" in run.data.metrics]
            assert len(trials) == NUM_TRIALS
            assert {run.info.status for run in trials} == {"FINISHED"}

    with server(tmp_path / "mlflow", tmp_path) as again:  # the password is the same
        assert len(MlflowClient(again).search_runs([experiment.experiment_id])) == len(runs)


def deliver(uri: str, name: str, folder: Path) -> None:
    """What a driver tells MLflow of a few trials."""
    tracker = MlflowTracker(
        uri, "blocks", name, name, folder, {}, ("a", "b"), {"space": "qat"}, MIOU_AND_SIZE
    )
    callback = AsyncCallback(tracker)
    config, first = TrialConfig(recipe=Qat()), make_metrics(0.4, None, 1, class_iou=(0.4, 0.4))
    last = make_metrics(0.5, 1000, 2, class_iou=(0.5, 0.5))
    for number in range(NUM_TRIALS):
        begun = Record(f"{number:04d}", "RUNNING", "", config, None)
        reports = {1: first, 2: last}
        ended = replace(begun, state="COMPLETE", metrics=last, reports=reports)
        callback.started(begun)
        callback.reported(replace(begun, metrics=first, reports={1: first}))
        callback.ended(ended)
    assert callback.close(240)


def test_a_password_is_made_once(tmp_path: Path) -> None:
    credentials, users = tmp_path / ".mlflow" / "credentials", tmp_path / USERS
    password = find_password(credentials, users)
    assert len(password) >= 32
    users.touch()
    assert find_password(credentials, users) == password
    credentials.unlink()
    with pytest.raises(ValueError, match="must have the password of user paretoseg, but has not"):
        find_password(credentials, users)


def test_the_password_of_another_server_is_kept(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    text = "[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = mine%\n"
    credentials.write_text(text)
    with pytest.raises(ValueError, match="must have no password of another server"):
        find_password(credentials, tmp_path / USERS)
    assert credentials.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "0"], "must be from 1 to 65535"),
        (["--store", "sqlite://"], "--store must name a store that keeps its content"),
        (["--store", "postgresql://me:secret@db/x"], "--store must hold no password"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main([str(tmp_path / "mlflow"), *arguments])
    except SystemExit as leave:
        status = int(str(leave.code))
    assert status == 2
    (line, *_) = capsys.readouterr().err.splitlines()
    assert words in line
    assert "secret" not in line
    assert not (tmp_path / "mlflow").exists()
