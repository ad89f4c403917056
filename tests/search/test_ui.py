"""The pages of a storage, as a user starts them."""

import json
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.request import Request, urlopen

import optuna
import pytest
from factories import make_config
from web_commands import serving

from search.core.objectives import MIOU_AND_SIZE
from search.core.tracking_uri import default_tracking_uri
from search.storage.journal import open_journal
from search.storage.layout import mlflow_artifact_folder
from search.storage.study_file import StudyFile, write_study_file
from search.tracking.mlflow import MlflowTracker, make_store
from search.ui import main, show


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage with a study of two trials in its journal and in MLflow."""
    storage = tmp_path / "studies"
    config = make_config(storage, tmp_path / "data", name="qkd-blocks", space="qkd")
    config.folder.mkdir(parents=True)
    write_study_file(
        StudyFile(id="1", config=config, versions={}, data_digest="d", class_names=("a", "b"))
    )
    study = open_journal(config.folder, config.name, MIOU_AND_SIZE)
    for bits in (2, 8):
        trial = study.ask()
        trial.suggest_int("recipe.quantizer.weight_bits", 2, 8)
        trial.suggest_float("recipe.losses.pixelwise.weight", 0.1, 3)
        study.tell(trial, (0.1 * bits, 1000.0 * bits))
    uri = default_tracking_uri(storage)
    make_store(uri)
    tracking = MlflowTracker(
        uri,
        "blocks 32x32",
        config.name,
        "1",
        mlflow_artifact_folder(storage),
        {},
        ("a", "b"),
        {"space": "qkd"},
        MIOU_AND_SIZE,
    )
    file = tmp_path / "notes.txt"
    file.write_text("some text")
    tracking.end([file], {"best_miou": 0.5}, interrupted=False)
    return storage


def read(url: str) -> str:
    with urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


@pytest.mark.slow
def test_mlflow_shows_a_copied_storage(storage: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(storage, copy)
    with serving("search.ui", str(copy)) as lines:
        assert lines[0].startswith("artifacts that were at file://")
        assert lines[2] == "blocks 32x32: 1 study"
        assert [line.split("http")[0].strip() for line in lines[3:7]] == [
            "studies",
            "fronts of all studies",
            "models of the fronts",
            "trials",
        ]
        assert all("viewStateShareKey=paretoseg-" in line for line in lines[3:7])
        address = re.search(r"http://127\.0\.0\.1:\d+", lines[3])
        assert address
        assert "mlflow" in read(f"{address[0]}/").lower()
        search = json.dumps({"experiment_ids": ["1"]}).encode()
        request = Request(
            f"{address[0]}/api/2.0/mlflow/runs/search",
            search,
            {"Content-Type": "application/json"},
        )
        with urlopen(request, timeout=60) as answer:
            (run,) = json.load(answer)["runs"]
        assert run["info"]["artifact_uri"].startswith((copy / "mlartifacts").as_uri())
        path = f"get-artifact?path=notes.txt&run_uuid={run['info']['run_id']}"
        assert read(f"{address[0]}/{path}") == "some text"
    with closing(socket.socket()) as probe:  # no server is left behind
        assert probe.connect_ex(("127.0.0.1", int(address[0].rsplit(":", 1)[1]))) != 0


@pytest.mark.slow
def test_optuna_dashboard_shows_short_names(storage: Path) -> None:
    with serving("search.ui", str(storage), "--dashboard", "optuna") as lines:
        address = lines[0].split()[-1].removesuffix("/dashboard/")
        assert "optuna" in read(f"{address}/dashboard/").lower()
        (summary,) = json.loads(read(f"{address}/api/studies"))["study_summaries"]
        assert summary["study_name"] == "qkd-blocks"
        study = json.loads(read(f"{address}/api/studies/{summary['study_id']}"))
    assert study["objective_names"] == ["miou", "size_bytes"]
    names = {param["name"] for trial in study["trials"] for param in trial["params"]}
    assert names == {"weight_bits", "pixelwise.weight"}
    assert [trial["values"] for trial in study["trials"]] == [[0.2, 2000.0], [0.8, 8000.0]]


def test_a_journal_names_its_objectives(storage: Path) -> None:
    """For Optuna Dashboard's own command."""
    folder = storage / "qkd-blocks"
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    loaded = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert loaded.metric_names == ["miou", "size_bytes"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that bad input is answered with."""
    assert main(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_bad_input_is_one_line(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert refused(capsys, nowhere) == (
        f"error: STORAGE must hold MLflow's record, but there is no {nowhere}/mlflow.db"
    )
    assert refused(capsys, nowhere, "--dashboard", "optuna") == (
        f"error: the storage must hold studies, but there is none in {nowhere}"
    )
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for dashboard in ("mlflow", "optuna"):
            assert refused(capsys, str(storage), "--port", port, "--dashboard", dashboard) == (
                f"error: --port must be free, but {port} is in use on 127.0.0.1"
            )
    (storage / "mlflow.db").write_text("no database, " * 100)
    assert "must name an MLflow store" in refused(capsys, str(storage))
    with pytest.raises(SystemExit, match="2"):
        main([str(storage), "--port", "70000"])
    assert "must be from 1 to 65535, but got '70000'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_store_of_a_newer_version_is_refused(storage: Path) -> None:
    with closing(sqlite3.connect(storage / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'of the future'")
    command = [sys.executable, "-m", "search.ui", str(storage)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert "found version of the future" in line


def test_the_first_link_is_opened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("threading.Event.wait", interrupt)
    lines = ["data: 1 study", "  studies  http://here/a", "  fronts   http://here/b"]
    show(iter(lines), opens=True)
    assert opened == ["http://here/a"]
    assert capsys.readouterr().out.splitlines() == [*lines, "Ctrl-C ends it"]
