"""How a study ends that cannot continue."""

import errno
import json
import shutil
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from factories import make_config
from PIL import Image
from study_factories import open_new_study, open_stored_study, prepare_new_study

from search.execution.ray_start import NUM_STARTS, start_ray
from search.execution.searcher import ONE_CORE
from search.run import config_from_arguments, make_parser
from search.storage.journal import read_journal
from search.storage.layout import STUDY_FILE
from search.storage.study_file import (
    StudyFile,
    installed_versions,
    version_of,
    write_study_file,
)
from search.storage.trials import asked_trials
from search.study.builders import build_searcher
from search.study.preparation import prepare_study
from search.study.search_loop import check_least_miou, run_study
from search.study.verification import violations
from trainables.config import ExecutionConfig
from trainables.core.artifacts import Artifact
from trainables.models.model_file import read_spec, write_model


def test_a_study_delivers_all_events_before_it_reports(
    blocks_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_new_study(make_config(tmp_path, blocks_folder, samples=2))

    def fill_the_disk(*given: Any) -> None:
        run = ExecutionConfig(data=study.data.path, artifacts=study.store.root)
        searcher = build_searcher(study, run, [], lambda: False, lambda _: ONE_CORE)
        for trial_id in ("a", "b"):
            assert isinstance(searcher.suggest(trial_id), dict)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("search.study.search_loop.search", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        run_study(study)
    rows = pq.read_table(study.config.folder / "trials.parquet").to_pylist()
    assert [row["state"] for row in rows] == ["PAUSED", "PAUSED"]
    assert list(violations(study.file, study.config.folder)) == []


def test_a_study_of_an_earlier_release_goes_on(blocks_folder: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, blocks_folder)
    begun = open_new_study(config)
    path = config.folder / STUDY_FILE
    content = json.loads(path.read_text())
    content["versions"]["paretoseg"] = "0.0.9"
    del content["teacher_digest"]  # which did not exist then
    path.write_text(json.dumps(content))
    begun.lock.release()
    resumed = open_stored_study(config)
    assert resumed.file == begun.file
    assert resumed.stored_file is not None
    assert resumed.stored_file.versions["paretoseg"] == "0.0.9"


def test_a_resumed_study_keeps_its_data(blocks_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(blocks_folder, data)
    config = make_config(tmp_path / "studies", data)
    open_new_study(config).lock.release()
    prepare_study(config, resumed=True).lock.release()
    shutil.copy(data / "SegmentationClass/train1.png", data / "SegmentationClass/train0.png")
    with pytest.raises(ValueError, match=f"must keep its data, but {data} has changed"):
        prepare_study(config, resumed=True)


def test_a_resumed_study_keeps_its_teacher(
    blocks_folder: Path, teacher_file: Path, tmp_path: Path
) -> None:
    own, moved, other = (tmp_path / f"{name}.safetensors" for name in ("own", "moved", "other"))
    shutil.copy(teacher_file, own)
    shutil.copy(teacher_file, moved)
    spec = read_spec(teacher_file)
    write_model(other, spec.build(), spec)
    config = make_config(tmp_path / "studies", blocks_folder, teacher=str(own))
    open_new_study(config).lock.release()
    prepare_study(config.replace(teacher=str(moved)), resumed=True).lock.release()
    for teacher in (str(other), "auto"):
        with pytest.raises(ValueError, match=f"keep its teacher, but {teacher} is not that of"):
            prepare_study(config.replace(teacher=teacher), resumed=True)
    shutil.copy(other, own)
    with pytest.raises(ValueError, match=f"must keep its teacher, but {own} is not that of"):
        prepare_study(config, resumed=True)


def test_a_study_that_trains_its_teacher_keeps_to_that(
    blocks_folder: Path, teacher_file: Path, tmp_path: Path
) -> None:
    config = make_config(tmp_path, blocks_folder)
    open_new_study(config).lock.release()
    with pytest.raises(ValueError, match=r"must keep its teacher, .* which began with auto"):
        prepare_study(config.replace(teacher=str(teacher_file)), resumed=True)


def no_ray(*given: Any, **named: Any) -> None:
    raise RuntimeError("the node timed out\nand more")


@pytest.fixture
def slow_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", no_ray)
    monkeypatch.setattr("search.execution.ray_start.PAUSE_S", 0.01)


def test_a_ray_that_does_not_start_leaves_nothing_of_a_study(
    slow_ray: None, blocks_folder: Path, tmp_path: Path
) -> None:
    config = make_config(tmp_path, blocks_folder)
    study = prepare_new_study(config)
    with pytest.raises(
        OSError,
        match=r"^Ray must answer on this machine, but it did not in 3 attempts: the node timed "
        r"out; study study has not begun: the same command begins it$",
    ):
        run_study(study)
    assert not config.folder.exists()
    study.lock.release()
    assert open_new_study(config).is_open


def test_a_ray_that_does_not_start_leaves_a_study_as_it_was(
    slow_ray: None, blocks_folder: Path, tmp_path: Path
) -> None:
    config = make_config(tmp_path, blocks_folder)
    begun = open_new_study(config)
    before = (config.folder / "journal.log").read_bytes()
    begun.lock.release()
    with pytest.raises(OSError, match="go on with --resume study"):
        run_study(prepare_study(config, resumed=True))
    assert (config.folder / "journal.log").read_bytes().startswith(before)
    assert asked_trials(read_journal(config.folder, config.name)) == []


def test_a_ray_that_starts_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[str] = []

    def late(*given: Any, **named: Any) -> None:
        attempts.append("init")
        if len(attempts) < NUM_STARTS:
            raise TimeoutError("15 s for a port")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", late)
    monkeypatch.setattr("search.execution.ray_start.PAUSE_S", 0.01)
    start_ray(lambda: False)
    assert len(attempts) == NUM_STARTS


def test_a_cluster_of_another_version_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[str] = []

    def refuse(*given: Any, **named: Any) -> None:
        attempts.append("init")
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n")

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr("ray.init", refuse)
    expected = "as the cluster at 10.0.0.1:6379 has them: Version mismatch: .* with: Ray: 2.59.0$"
    with pytest.raises(OSError, match=expected):
        start_ray(lambda: False)
    assert len(attempts) == 1


def test_a_signal_while_ray_starts_ends_its_attempts(slow_ray: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        start_ray(lambda: True)


def test_a_checkout_that_is_not_installed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("search.storage.study_file.version", missing)
    assert version_of("paretoseg") == "not installed"
    assert set(installed_versions()) >= {"python", "paretoseg", "torch"}


def test_a_pack_of_an_earlier_release_is_looked_at_again(
    blocks_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(blocks_folder, tmp_path / "data")
    config = make_config(tmp_path / "studies", folder)
    study = prepare_new_study(config)
    study.lock.release()
    meta = study.data.path / "data.json"
    content = json.loads(meta.read_text())
    monkeypatch.setattr(
        "trainables.training.setup.find_pack", lambda *_: Artifact(study.data.path, {}, 0)
    )
    monkeypatch.setattr(
        "trainables.training.setup.open_pack", lambda path: replace(study.data, notes=None)
    )
    assert content["notes"] == []
    prepare_study(config, resumed=False).lock.release()
    for path in (folder / "SegmentationClass").iterdir():
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).save(path)
    with pytest.raises(ValueError, match="hold 0 and 255 alone"):
        prepare_study(config, resumed=False)


def test_the_store_of_mlflow_s_environment_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--space", "qat", "--storage", str(tmp_path)]

    def store(*more: str) -> str:
        return config_from_arguments(make_parser().parse_args([*argv, *more])).tracking_uri

    assert store() == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert store() == "http://127.0.0.1:5000"
    assert store("--tracking-uri", "http://127.0.0.1:9") == "http://127.0.0.1:9"
    config = make_config(tmp_path, "shapes", space="qat")
    write_study_file(
        StudyFile(id="0", config=config, versions={}, data_digest="0", class_names=("a", "b"))
    )
    assert store("--resume", "study") == config.tracking_uri
    said = f"MLFLOW_TRACKING_URI is not used: the study keeps {config.tracking_uri}"
    assert said in capsys.readouterr().err


def test_a_least_miou_that_the_teacher_does_not_have_is_refused() -> None:
    check_least_miou(None, 0.1, "the teacher")
    check_least_miou(0.4, 0.41, "the teacher")
    with pytest.raises(ValueError, match=r"below the mIoU of the teacher, 0.400, but got 0.4;"):
        check_least_miou(0.4, 0.4, "the teacher")
