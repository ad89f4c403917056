"""Models of fronts in MLflow: found by mIoU and bytes, loaded, served, and named by aliases."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from unittest.mock import patch
from urllib.error import URLError
from urllib.request import Request, urlopen

import mlflow
import numpy as np
import pandas as pd
import pytest
from factories import FINISHED, make_metrics
from mlflow import MlflowClient
from PIL import Image

from search import open_study
from search.core.pareto import pareto_front
from search.core.record import Record
from search.core.tracking_uri import default_tracking_uri
from search.storage.layout import EXAMPLES, mlflow_artifact_folder
from search.storage.study_file import StudyFile, read_study_file
from search.tracking.mlflow_internals import repair_artifacts
from search.tracking.mlflow_models import FrontModels
from search.tracking.web_server import choose_port, mlflow_server, stop
from trainables.config import TrialConfig
from trainables.models.model_file import MODEL_FILE
from trainables.training.examples import Examples, write_examples

REGISTRY = "blocks-32x32"


@pytest.fixture
def storage(tmp_path: Path, study: Path) -> Path:
    """A storage with a finished study and its examples, and an empty store."""
    storage = tmp_path / "studies"
    shutil.copytree(study, storage / "blocks")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    examples = Examples(images, np.zeros((2, 32, 32), np.uint8))
    write_examples(examples, storage / "blocks" / EXAMPLES)
    client = MlflowClient(default_tracking_uri(storage))
    client.create_experiment("blocks 32x32", mlflow_artifact_folder(storage).as_uri())
    return storage


def trials_of(folder: Path, better: float = 0.0) -> list[Record]:
    """The trials of the study, whose mIoU grows with their size."""
    found = []
    for number, trial_id in enumerate(FINISHED):
        model = folder / "models" / trial_id
        metrics = make_metrics(
            0.2 + 0.1 * number + better, (model / MODEL_FILE).stat().st_size, class_iou=(0.5,) * 5
        )
        config = TrialConfig.read(model / "config.json")
        params = {"recipe.quantizer.weight_bits": 4}
        found.append(Record(trial_id, "COMPLETE", "", config, metrics, params=params))
    return found


def keep(storage: Path, file: StudyFile, front: Sequence[Record]) -> MlflowClient:
    """Keeps a front as the tracker does, with new runs for trials that have none."""
    client = MlflowClient(default_tracking_uri(storage))
    runs = {}
    for member in front:
        query = f"tags.study = '{file.id}' AND tags.trial = '{member.trial_id}'"
        known = client.search_runs(["1"], query)
        tags = {"study": file.id, "trial": member.trial_id}
        run = known[0] if known else client.create_run("1", tags=tags)
        runs[member.trial_id] = run.info.run_id
    FrontModels(client, "1", REGISTRY, file, runs).keep(front)
    return client


def load(storage: Path, version: str) -> mlflow.pyfunc.PyFuncModel:
    """A registered model, loaded as MLflow's users do."""
    # Not by set_tracking_uri, which leaves it in the environment of the tests that follow
    with patch.dict(os.environ, {"MLFLOW_TRACKING_URI": default_tracking_uri(storage)}):
        return mlflow.pyfunc.load_model(f"models:/{REGISTRY}{version}")


def test_models_are_found_by_miou_and_bytes_and_predict_as_their_files(storage: Path) -> None:
    folder = storage / "blocks"
    front = trials_of(folder)
    client = keep(storage, read_study_file(folder), front)
    query = "metrics.miou > 0.35 AND metrics.size_bytes < 20000"
    found = client.search_logged_models(["1"], query)
    assert {model.tags["paretoseg.trial"] for model in found} == {"0002", "0003"}
    assert {model.name for model in found} == {"blocks-0002", "blocks-0003"}
    assert {model.model_type for model in found} == {"semantic segmentation"}
    assert {model.params["weight_bits"] for model in found} == {"4"}
    image = (Path(read_study_file(folder).config.data) / "JPEGImages/val0.png").read_bytes()
    model = load(storage, "@best")
    (mask,) = model.predict(pd.DataFrame({"image": [image]}))["mask"]
    own = open_study(folder).model("0004").predict(Image.open(BytesIO(image)))
    assert np.array_equal(np.asarray(Image.open(BytesIO(mask))), own)
    assert model.metadata.signature.inputs.input_names() == ["image"]
    example = model.input_example
    assert Image.open(BytesIO(example["image"][0])).size == (32, 32)
    (version,) = client.search_model_versions(f"name = '{REGISTRY}' AND version_number = 5")
    first, *_ = version.description.splitlines()
    assert first == "60.0 % mIoU, 62.7 KB, unet 6 depth 2 bilinear, 32/32 bits"
    assert "| trial | blocks/0004 |" in version.description
    assert float(version.tags["miou"]) == front[4].metrics.miou
    assert f"{front[4].metrics.size_bytes:,} bytes" in version.description
    assert "| 3 | class 3 | 50.0 |" in version.description
    (logged,) = client.search_logged_models(["1"], "metrics.miou > 0.55")
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": REGISTRY, "version": 5}]
    files = {path.name for path in Path(logged.artifact_location.removeprefix("file://")).iterdir()}
    assert {"MLmodel", "README.md", "data", "input_example.json"} <= files
    assert "uv.lock" not in files


def test_a_resumed_study_writes_a_model_once_and_says_which_left_the_front(storage: Path) -> None:
    folder = storage / "blocks"
    file, trials = read_study_file(folder), trials_of(folder)
    client = keep(storage, file, trials[:4])
    (storage / "blocks/models/0004" / MODEL_FILE).rename(storage / "aside")
    keep(storage, file, trials[1:])
    assert len(client.search_logged_models(["1"])) == 4  # that of 0004 is missing
    (storage / "aside").rename(storage / "blocks/models/0004" / MODEL_FILE)
    keep(storage, file, trials[1:])
    logged = client.search_logged_models(["1"])
    on_front = {model.tags["paretoseg.trial"]: model.tags["front"] for model in logged}
    assert on_front == {"0000": "false", **dict.fromkeys(["0001", "0002", "0003", "0004"], "true")}
    versions = client.search_model_versions(f"name = '{REGISTRY}'")
    assert {v.tags["paretoseg.trial"]: v.tags["front"] for v in versions} == on_front
    assert len(versions) == 5


def test_an_incomplete_model_is_logged_anew(storage: Path) -> None:
    folder = storage / "blocks"
    file, trials = read_study_file(folder), trials_of(folder)
    client = MlflowClient(default_tracking_uri(storage))
    tags = {"paretoseg.study_id": file.id, "paretoseg.trial": "0004"}
    client.create_logged_model("1", "model", tags=tags)
    keep(storage, file, trials[4:])
    (logged,) = client.search_logged_models(["1"])
    assert logged.status.value == "READY"


def test_aliases_move_where_a_later_study_is_better(storage: Path) -> None:
    folder = storage / "blocks"
    file, trials = read_study_file(folder), trials_of(folder)
    client = keep(storage, file, trials)
    first = dict(client.get_registered_model(REGISTRY).aliases)
    assert first == {"smallest": 1, **dict.fromkeys(ALIASES, 5)}
    worse = file.replace(id="worse")
    keep(storage, worse, pareto_front(trials_of(folder, -0.05)))
    assert client.get_registered_model(REGISTRY).aliases == first
    better = file.replace(id="better")
    keep(storage, better, pareto_front(trials_of(folder, 0.05)))
    after = dict(client.get_registered_model(REGISTRY).aliases)
    assert after == {"smallest": 11, **dict.fromkeys(ALIASES, 15)}
    other = file.replace(id="other", label_size="own")  # mIoU that cannot be compared
    keep(storage, other, pareto_front(trials_of(folder, -0.1)))
    latest = {"smallest": 16, **dict.fromkeys(ALIASES, 20)}
    assert client.get_registered_model(REGISTRY).aliases == latest
    keep(storage, better, pareto_front(trials_of(folder, 0.05)))  # as an older study is resumed
    assert client.get_registered_model(REGISTRY).aliases == latest


def test_an_alias_without_a_version_is_deleted(storage: Path) -> None:
    folder = storage / "blocks"
    file, trials = read_study_file(folder), trials_of(folder)
    client = keep(storage, file, trials)
    client.set_registered_model_alias(REGISTRY, "mine", "1")
    large = trials_of(folder)[4]
    assert large.metrics
    large = replace(large, metrics=large.metrics.replace(size_bytes=400_000))
    keep(storage, file.replace(id="later", label_size="own"), [large])
    aliases = client.get_registered_model(REGISTRY).aliases
    assert aliases == {"mine": 1, "smallest": 6, "best": 6, "under-1MB": 6}


def test_what_users_change_in_the_registry_is_no_error(storage: Path) -> None:
    folder = storage / "blocks"
    file, trials = read_study_file(folder), trials_of(folder)
    client = keep(storage, file, trials)
    client.delete_model_version(REGISTRY, "5")
    client.delete_model_version_tag(REGISTRY, "4", "miou")
    client.set_model_version_tag(REGISTRY, "3", "size_bytes", "small")
    keep(storage, file, trials)
    versions = client.search_model_versions(f"name = '{REGISTRY}'")
    assert sorted(int(version.version) for version in versions) == [1, 2, 3, 4]
    assert client.get_model_version_by_alias(REGISTRY, "best").version == 2
    (model,) = client.search_logged_models(["1"], "metrics.miou > 0.55")
    client.delete_logged_model(model.model_id)  # what is deleted is logged and registered anew
    keep(storage, file, trials)
    assert client.get_model_version_by_alias(REGISTRY, "best").version == 6
    client.delete_registered_model(REGISTRY)
    keep(storage, file, trials)
    assert client.search_model_versions(f"name = '{REGISTRY}'") == []


def test_a_version_is_linked_where_a_driver_ended_before_it_was(storage: Path) -> None:
    folder = storage / "blocks"
    file, trials = read_study_file(folder), trials_of(folder)
    client = keep(storage, file, trials[4:])
    (model,) = client.search_logged_models(["1"])
    client.set_logged_model_tags(model.model_id, {LINKS: '[{"name": "own", "version": 3}]'})
    for _ in range(2):
        keep(storage, file, trials[4:])
    (model,) = client.search_logged_models(["1"])
    linked = json.loads(model.tags[LINKS])
    assert linked == [{"name": "own", "version": 3}, {"name": REGISTRY, "version": 1}]


LINKS = "mlflow.modelVersions"


def test_without_an_example_a_model_is_kept(storage: Path) -> None:
    (storage / "blocks" / EXAMPLES).unlink()
    keep(storage, read_study_file(storage / "blocks"), trials_of(storage / "blocks"))
    assert load(storage, "@best").input_example is None


def test_a_latency_beside_other_work_is_said(storage: Path) -> None:
    trials = trials_of(storage / "blocks")
    trials[4] = replace(trials[4], latency_ms=1.2345, latency_disturbed=True)
    client = keep(storage, read_study_file(storage / "blocks"), trials)
    (model,) = client.search_logged_models(["1"], "metrics.latency_ms < 2")
    assert model.tags["latency"] == "measured beside other work"
    assert "1.23 ms on one core, measured beside other work" in model.tags["mlflow.note.content"]


ALIASES = ("best", "under-100KB", "under-300KB", "under-1MB")


def test_models_of_a_copied_storage_are_its_own(storage: Path, tmp_path: Path) -> None:
    client = keep(storage, read_study_file(storage / "blocks"), trials_of(storage / "blocks"))
    client.log_text(client.search_runs(["1"])[0].info.run_id, "as the tables", "trials.txt")
    copy = tmp_path / "copy"
    shutil.copytree(storage, copy)
    repair_artifacts(copy / "mlflow.db", mlflow_artifact_folder(copy))
    shutil.rmtree(storage / "mlartifacts")
    assert load(copy, "@smallest").metadata.model_id
    for model in MlflowClient(default_tracking_uri(copy)).search_logged_models(["1"]):
        assert model.artifact_location.startswith(mlflow_artifact_folder(copy).as_uri())


@pytest.mark.slow
def test_a_server_keeps_models_of_another_machine(storage: Path, tmp_path: Path) -> None:
    """A group's server, which takes and gives files by its own address."""
    file, trials = read_study_file(storage / "blocks"), trials_of(storage / "blocks")
    uri = f"sqlite:///{tmp_path}/server.db"
    with mlflow_server(uri, tmp_path / "files", choose_port(None, 5450)) as address:
        client = MlflowClient(address)
        experiment = client.create_experiment("blocks 32x32")
        runs = {trial.trial_id: client.create_run(experiment).info.run_id for trial in trials}
        for _ in range(2):
            FrontModels(client, experiment, REGISTRY, file, runs).keep(trials)
        assert len(client.search_model_versions(f"name = '{REGISTRY}'")) == 5
        (model,) = client.search_logged_models([experiment], "metrics.miou > 0.55")
        assert model.artifact_location.startswith("mlflow-artifacts:")
        with patch.dict(os.environ, {"MLFLOW_TRACKING_URI": address}):
            loaded = mlflow.pyfunc.load_model(f"models:/{REGISTRY}@best")
        assert loaded.metadata.model_id == model.model_id


@pytest.mark.slow
def test_mlflow_serves_a_model(storage: Path) -> None:
    folder = storage / "blocks"
    keep(storage, read_study_file(folder), trials_of(folder))
    port = choose_port(None, 5400)
    scripts = Path(sys.executable).parent
    command = [str(scripts / "mlflow"), "models", "serve", "--env-manager", "local"]
    command += ["--model-uri", f"models:/{REGISTRY}@under-100KB", "--port", str(port)]
    environment = {
        **os.environ,
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": default_tracking_uri(storage),
    }
    image = Path(read_study_file(folder).config.data) / "JPEGImages/val0.png"
    rows = [{"image": base64.b64encode(image.read_bytes()).decode()}]
    request = Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps({"dataframe_records": rows}).encode(),
        {"Content-Type": "application/json"},
    )
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        answer, begin = None, time.monotonic()
        while answer is None and time.monotonic() - begin < 120:
            assert server.poll() is None
            with suppress(URLError, OSError), urlopen(request, timeout=60) as response:
                answer = json.load(response)
            time.sleep(0.3)
    finally:
        stop(server)
    assert answer is not None
    mask = Image.open(BytesIO(base64.b64decode(answer["predictions"][0]["mask"])))
    own = open_study(folder).model("0004").predict(image)
    assert np.array_equal(np.asarray(mask), own)
