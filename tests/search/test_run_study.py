"""How a study ends that cannot go on."""

import errno
import json
import math
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from factories import make_config

from search.check import violations
from search.cluster import NUM_STARTS, start_ray
from search.interruption import Interruption
from search.journal import read_journal
from search.record import asked_trials
from search.study import Study, run_study
from search.study_file import STUDY_FILE, installed_versions, version_of
from trainables.config import RunConfig


def test_a_study_comes_to_rest_before_it_reports(
    blocks_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(make_config(tmp_path, blocks_folder, samples=2), resumed=False).open()

    def fill_the_disk(*given: Any) -> None:
        run = RunConfig(data=study.data.path, artifacts=study.store.root)
        searcher = study.searcher(run, [], lambda: False, lambda: math.inf)
        for trial_id in ("a", "b"):
            assert isinstance(searcher.suggest(trial_id), dict)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("search.study.search", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        run_study(study)
    rows = pq.read_table(study.config.folder / "trials.parquet").to_pylist()
    assert [row["state"] for row in rows] == ["PAUSED", "PAUSED"]
    assert list(violations(study.file, study.config.folder)) == []


def test_a_study_of_an_earlier_release_goes_on(blocks_folder: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, blocks_folder)
    begun = Study(config, resumed=False).open()
    path = config.folder / STUDY_FILE
    content = json.loads(path.read_text())
    content["versions"]["paretoseg"] = "0.0.9"
    del content["teacher_digest"]  # which did not exist then
    path.write_text(json.dumps(content))
    begun.lock.release()
    resumed = Study(config, resumed=True).open()
    assert resumed.file == begun.file
    assert resumed.known is not None
    assert resumed.known.versions["paretoseg"] == "0.0.9"


def no_ray(*given: Any, **named: Any) -> None:
    raise RuntimeError("the node timed out\nand more")


@pytest.fixture
def slow_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("search.cluster.ray.init", no_ray)
    monkeypatch.setattr("search.cluster.PAUSE_S", 0.01)


def test_a_ray_that_does_not_start_leaves_nothing_of_a_study(
    slow_ray: None, blocks_folder: Path, tmp_path: Path
) -> None:
    config = make_config(tmp_path, blocks_folder)
    study = Study(config, resumed=False)
    with pytest.raises(
        OSError,
        match=r"^Ray must answer on this machine, but it did not in 3 attempts: the node timed "
        r"out; study study has not begun: the same command begins it$",
    ):
        run_study(study)
    assert not config.folder.exists()
    study.lock.release()
    assert Study(config, resumed=False).open().is_open


def test_a_ray_that_does_not_start_leaves_a_study_as_it_was(
    slow_ray: None, blocks_folder: Path, tmp_path: Path
) -> None:
    config = make_config(tmp_path, blocks_folder)
    begun = Study(config, resumed=False).open()
    before = (config.folder / "journal.log").read_bytes()
    begun.lock.release()
    with pytest.raises(OSError, match="go on with --resume study"):
        run_study(Study(config, resumed=True))
    assert (config.folder / "journal.log").read_bytes().startswith(before)
    assert asked_trials(read_journal(config.folder, config.name)) == []


def test_a_ray_that_starts_late_is_waited_for(
    blocks_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[str] = []

    def late(*given: Any, **named: Any) -> None:
        attempts.append("init")
        if len(attempts) < NUM_STARTS:
            raise TimeoutError("15 s for a port")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("search.cluster.ray.init", late)
    monkeypatch.setattr("search.cluster.PAUSE_S", 0.01)
    start_ray(Interruption(tmp_path / ".stop"))
    assert len(attempts) == NUM_STARTS


def test_a_signal_while_ray_starts_ends_its_attempts(slow_ray: None, tmp_path: Path) -> None:
    interruption = Interruption(tmp_path / ".stop")
    interruption.since = 0.0
    with pytest.raises(KeyboardInterrupt):
        start_ray(interruption)


def test_a_checkout_that_is_not_installed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("search.study_file.version", missing)
    assert version_of("paretoseg") == "not installed"
    assert set(installed_versions()) >= {"python", "paretoseg", "torch"}
