"""Which latencies of earlier trials a study reuses."""

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import make_config, make_metrics
from study_factories import open_new_study, open_stored_study

from search.core.config import StudyConfig
from search.core.record import LATENCY_MS
from search.execution.searcher import ONE_CORE
from search.storage.layout import JOURNAL, STUDY_FILE
from search.storage.study_file import read_study_file
from search.study.builders import build_searcher
from search.study.latencies import with_latencies_of_here
from search.study.recovery import recover_study
from search.study.study import Study, read_records
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.errors import NotExportable
from trainables.trainable import METRICS

STATED_MS = 12345.0
"""In the journal; nothing that is measured here takes so long."""


@pytest.fixture(scope="module")
def begun(blocks_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    """A study by latency with one finished trial, whose latency in the journal is `STATED_MS`."""
    config = make_config(
        tmp_path_factory.mktemp("begun"),
        blocks_folder,
        space="kd",  # of 4 networks, each of which is measured
        objectives=("miou", "latency"),
        sampler="ehvi",
    )
    study = open_new_study(config)
    run = ExecutionConfig(data=study.data.path, artifacts=study.store.root)
    searcher = build_searcher(study, run, [], lambda: False, lambda _: ONE_CORE)
    assert isinstance(searcher.suggest("a"), dict)
    metrics = make_metrics(0.5, size_bytes=1000)
    searcher.on_trial_complete("a", {METRICS: metrics.model_dump_json()})
    (record,) = read_records(study)
    assert record.state == "COMPLETE"
    study.lock.release()
    path = config.folder / JOURNAL
    recorded = json.dumps({LATENCY_MS: record.latency_ms}, separators=(",", ":"))
    text = path.read_text()
    assert recorded in text
    path.write_text(text.replace(recorded, json.dumps({LATENCY_MS: STATED_MS})))
    return config


@pytest.fixture
def copied(begun: StudyConfig, tmp_path: Path) -> StudyConfig:
    shutil.copytree(begun.storage, tmp_path / "storage")
    return begun.replace(
        storage=tmp_path / "storage", tracking_uri=f"sqlite:///{tmp_path}/storage/mlflow.db"
    )


def measured_elsewhere(content: dict[str, Any]) -> None:
    content["latency_conditions"]["machine"] = "another processor"


def measured_with_another_version(content: dict[str, Any]) -> None:
    content["latency_conditions"]["onnxruntime"] = "0.1"


def measured_at_another_size(content: dict[str, Any]) -> None:
    content["latency_conditions"]["image"] = [512, 512]


def measured_by_an_earlier_release(content: dict[str, Any]) -> None:
    del content["latency_conditions"]


def unchanged(content: dict[str, Any]) -> None:
    pass


DIFFERENT = [
    measured_elsewhere,
    measured_with_another_version,
    measured_at_another_size,
    measured_by_an_earlier_release,
]


def change_study_file(config: StudyConfig, change: Callable[[dict[str, Any]], None]) -> None:
    path = config.folder / STUDY_FILE
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def latencies(study: Study) -> tuple[float | None, float]:
    """Of the trial as a record, and in what the sampler knows of it."""
    recover_study(study)
    (record,) = read_records(study)
    history = study.cost_model.problem.new_history()
    history.update(record)
    (observation,) = history.all_observations()
    return record.latency_ms, observation.costs[0]


def test_a_resumed_study_takes_over_its_own_latencies(copied: StudyConfig) -> None:
    study = open_stored_study(copied)
    assert latencies(study) == (STATED_MS, STATED_MS)
    assert read_study_file(copied.folder).latency_conditions is not None


@pytest.mark.parametrize("change", DIFFERENT)
def test_a_study_that_is_resumed_under_other_conditions_measures_again(
    change: Callable[[dict[str, Any]], None], copied: StudyConfig
) -> None:
    change_study_file(copied, change)
    for _ in range(2):  # a third driver takes nothing over either: the journal now holds both
        study = open_stored_study(copied)
        recorded, known = latencies(study)
        assert recorded == known
        assert known < STATED_MS
        assert read_study_file(copied.folder).latency_conditions is None
        study.lock.release()


@pytest.mark.parametrize("change", [unchanged, *DIFFERENT])
def test_optuna_s_samplers_read_no_latencies_of_other_conditions(
    change: Callable[[dict[str, Any]], None], copied: StudyConfig
) -> None:
    def by_tpe(content: dict[str, Any]) -> None:
        content["config"]["sampler"] = "tpe"
        change(content)

    change_study_file(copied, by_tpe)
    resumed = copied.replace(sampler="tpe")
    if change is unchanged:
        assert latencies(open_stored_study(resumed)) == (STATED_MS, STATED_MS)
        return
    before = (copied.folder / STUDY_FILE).read_text()
    with pytest.raises(ValueError, match="--sampler tpe must keep the conditions of its latenc"):
        open_stored_study(resumed)
    assert (copied.folder / STUDY_FILE).read_text() == before


def test_a_trial_that_a_dead_driver_left_ends_with_the_latency_of_here(
    copied: StudyConfig,
) -> None:
    change_study_file(copied, measured_elsewhere)
    path = copied.folder / JOURNAL
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    ends = [line for line in lines if line.get("values")]
    assert len(ends) == 1
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line not in ends))
    study = open_stored_study(copied)
    (recovered,) = recover_study(study)
    assert recovered.state == "COMPLETE"
    assert recovered.latency_ms is not None
    assert recovered.latency_ms < STATED_MS
    assert study.optuna_study.get_trials()[0].values == [0.5, recovered.latency_ms]
    assert read_records(study) == [recovered]


@pytest.mark.parametrize("change", [unchanged, *DIFFERENT])
def test_a_warm_start_takes_over_latencies_of_the_same_conditions_alone(
    change: Callable[[dict[str, Any]], None], copied: StudyConfig
) -> None:
    change_study_file(copied, change)
    study = open_new_study(copied.replace(name="later", warm_start=copied.name))
    (earlier,) = study.warm_start_records
    run = ExecutionConfig(data=study.data.path, artifacts=study.store.root)
    searcher = build_searcher(study, run, [], lambda: False, lambda _: ONE_CORE)
    (observation,) = searcher.proposer.settings.warm_start_observations
    assert earlier.latency_ms == observation.costs[0]
    assert (earlier.latency_ms == STATED_MS) == (change is unchanged)


def test_a_warm_start_from_a_study_without_latencies_measures_them(
    copied: StudyConfig, blocks_folder: Path
) -> None:
    by_size = copied.replace(name="by-size", objectives=("miou", "size"))
    shutil.copytree(copied.folder, by_size.folder)
    (by_size.folder / STUDY_FILE).unlink()
    journal = (by_size.folder / JOURNAL).read_text().replace(f'"{LATENCY_MS}"', '"unused"')
    (by_size.folder / JOURNAL).write_text(journal.replace(f'"{copied.name}"', '"by-size"'))
    study = open_new_study(copied.replace(name="later", warm_start="by-size"))
    (earlier,) = study.warm_start_records
    assert earlier.latency_ms is not None
    assert earlier.latency_ms < STATED_MS


class CannotExport:
    """A cost model of networks that ONNX does not know."""

    config = make_config(Path("studies"), "shapes", objectives=("miou", "latency"))

    def __init__(self) -> None:
        self.latencies: dict[str, float] = {}
        self.disturbed: set[str] = set()

    def latency_conditions(self) -> dict[str, Any]:
        return {}

    def latency_key(self, trial: TrialConfig) -> str:
        return trial.digest()

    def latency_ms(self, trial: TrialConfig) -> float:
        raise NotExportable("a network must consist of operations that the ONNX export knows")


def test_a_warm_start_leaves_out_what_cannot_be_exported(begun: StudyConfig) -> None:
    study = open_stored_study(begun)
    records = read_records(study)
    study.lock.release()
    assert len(records) == 1
    model: Any = CannotExport()
    assert with_latencies_of_here(records, model, None) == []


def test_a_trial_that_was_refused_has_no_latency_of_other_conditions(begun: StudyConfig) -> None:
    study = open_stored_study(begun)
    (record,) = read_records(study)
    study.lock.release()
    refused = replace(record, ray_id=None)
    model: Any = CannotExport()
    assert with_latencies_of_here([refused], model, {}) == [refused]
    unknown = replace(refused, latency_ms=None, latency_disturbed=False)
    assert with_latencies_of_here([refused], model, None) == [unknown]


def test_what_was_measured_beside_other_work_stays_marked(
    blocks_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its measurement through the journal to a resumed study."""
    loads = itertools.count(0.0, 60.0)  # minutes of others' work in each measurement
    monkeypatch.setattr("trainables.deploy.latency.others_seconds", lambda: next(loads))
    config = make_config(tmp_path, blocks_folder, space="kd", objectives=("miou", "latency"))
    study = open_new_study(config)
    run = ExecutionConfig(data=study.data.path, artifacts=study.store.root)
    searcher = build_searcher(study, run, [], lambda: False, lambda _: ONE_CORE)
    assert isinstance(searcher.suggest("a"), dict)
    (record,) = read_records(study)
    assert record.latency_disturbed
    study.lock.release()
    resumed = open_stored_study(config)
    (record,) = read_records(resumed)
    resumed.lock.release()
    assert record.latency_disturbed
    assert record.written_latency.endswith(" ms *")
