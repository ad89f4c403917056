"""A consistent study, and the errors reported for copies with one altered record."""

import hashlib
import json
import math
import re
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import make_config, make_metrics
from mlflow import MlflowClient
from mlflow.entities import Run
from ray.tune.schedulers import TrialScheduler
from study_factories import prepare_new_study

from search.core.record import Record
from search.execution.searcher import ONE_CORE
from search.storage.journal import read_journal
from search.storage.study_file import read_study_file
from search.storage.trials import asked_trials, read_asked_records, read_record
from search.study.builders import build_scheduler, build_searcher
from search.study.preparation import open_study
from search.study.search_loop import run_study
from search.study.study import Study
from search.study.verification import violations
from search.tracking.callbacks import AsyncCallback
from search.tracking.mlflow import MlflowTracker
from spaces import NamedSpace
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.metrics import Metrics
from trainables.deploy.latency import Latency
from trainables.models.configs import UNetConfig
from trainables.models.model_file import serialize
from trainables.recipes.configs import AdamW, Supervised
from trainables.trainable import EPOCH, METRICS
from trainables.training.cost import model_spec

WIDTH, DEPTH, RATE = "student.width", "student.depth", "recipe.optimizer.learning_rate"
EPOCHS = 3
IOU = (0.75, 0.5, 0.25, 0.0, None)
"""By class, of every trial."""
MIOUS = {
    (4, 4, 0.001): 0.5,
    (4, 2, 0.001): 0.4,
    (12, 2, 0.001): 0.45,  # smaller than the first but slower: dominated by latency alone
    (4, 4, 0.002): 0.3,  # dominated
    (4, 2, 0.002): 0.1,  # stopped
}
"""Of trials by width, depth and learning rate."""


def space(trial: optuna.Trial) -> TrialConfig:
    width = trial.suggest_categorical(WIDTH, [4, 12])
    depth = trial.suggest_categorical(DEPTH, [2, 4]) if width == 4 else 2
    rate = trial.suggest_categorical(RATE, [0.001, 0.002])
    recipe = Supervised(optimizer=AdamW(learning_rate=rate))
    return TrialConfig(student=UNetConfig(width=width, depth=depth), recipe=recipe)


def train(
    study: Study,
    records: Sequence[Record],
    progress: object,
    tracking: MlflowTracker,
    interruption: object,
) -> None:
    """What Ray would do with trials that learn nothing after their first epoch."""
    open_study(study)
    run, callback = (
        ExecutionConfig(data=study.data.path, artifacts=study.store.root),
        AsyncCallback(tracking),
    )
    searcher = build_searcher(study, run, [callback], lambda: False, lambda _: ONE_CORE)
    scheduler = build_scheduler(study, searcher, records)
    assert scheduler
    for (width, depth, rate), miou in MIOUS.items():
        trial: Any = SimpleNamespace(trial_id=f"{width}x{depth}-{rate}")
        asked = searcher.suggest(trial.trial_id)
        assert isinstance(asked, dict)
        config = TrialConfig.model_validate(asked["trial"])
        assert config.student == UNetConfig(width=width, depth=depth)
        assert config.recipe.learning_rate == rate
        for epoch in range(1, EPOCHS + 1):
            metrics = make_metrics(miou, None, epoch, class_iou=IOU)
            if epoch == EPOCHS:
                metrics = leave_model(config, miou, Path(asked["out"]))
            result = {METRICS: metrics.model_dump_json(), EPOCH: epoch}
            searcher.on_trial_result(trial.trial_id, result)
            decision = scheduler.on_trial_result(None, trial, result)
            if decision == TrialScheduler.STOP:
                break
        searcher.on_trial_complete(trial.trial_id, result)
    assert callback.close(60)


def leave_model(config: TrialConfig, miou: float, folder: Path) -> Metrics:
    """Writes what a trial leaves, with random weights, and gives its last report."""
    spec = model_spec(config, 5)
    content = serialize(spec.build(), spec)
    metrics = make_metrics(miou, len(content), EPOCHS, class_iou=IOU)
    metrics = metrics.replace(model_sha256=hashlib.sha256(content).hexdigest())
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "metrics.json").write_text(json.dumps([metrics.model_dump(mode="json")]))
    return metrics


@pytest.fixture(scope="module")
def whole(blocks_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study of five trials by mIoU and latency, without Ray."""
    known = [{WIDTH: width, DEPTH: depth, RATE: rate} for width, depth, rate in MIOUS]
    config = make_config(
        tmp_path_factory.mktemp("whole"),
        blocks_folder,
        samples=len(MIOUS),
        epochs=EPOCHS,
        scheduler="halving",
        objectives=("miou", "latency"),
    )
    named = NamedSpace(config.space, "three students", space, known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.study.cost_model.load_space", lambda name: named)
        patch.setattr("search.study.search_loop.search", train)
        assert run_study(prepare_new_study(config)) == 0
    return config.folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of the study, with its store of MLflow."""
    shutil.copytree(whole.parent, tmp_path / "storage", ignore=shutil.ignore_patterns("*.html"))
    return tmp_path / "storage" / whole.name


def records_of(folder: Path) -> dict[str, Record]:
    study = read_journal(folder, folder.name)
    return {record.trial_id: record for record in map(read_record, asked_trials(study))}


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def test_a_study_by_latency_is_whole(whole: Path) -> None:
    file = read_study_file(whole)
    assert list(violations(file, whole)) == []
    records = records_of(whole)
    assert [record.state for record in records.values()] == ["COMPLETE"] * 4 + ["PRUNED"]
    assert not records["0004"].rung_decisions[-1].promoted


def test_latency_is_measured_once_for_a_student_and_decides_on_the_front(whole: Path) -> None:
    rows = rows_of(whole, "trials")
    latency_of = {(row[WIDTH], row[DEPTH]): row["latency_ms"] for row in rows}
    assert all(row["latency_ms"] == latency_of[row[WIDTH], row[DEPTH]] for row in rows)
    kept = (whole.parent / "artifacts").glob("latency-*/latency.json")
    latencies = [Latency.model_validate_json(path.read_bytes()) for path in kept]
    assert sorted(latency.median_ms for latency in latencies) == sorted(latency_of.values())
    values = {row["trial_id"]: (-row["miou"], row["latency_ms"]) for row in rows[:4]}
    front = {
        trial_id
        for trial_id, (loss, latency) in values.items()
        if not any(
            a <= loss and b <= latency and (a, b) != (loss, latency) for a, b in values.values()
        )
    }
    assert {row["trial_id"] for row in rows_of(whole, "front")} == front
    for trial in asked_trials(read_journal(whole, whole.name))[:4]:
        loss, latency = values[f"{trial.number:04d}"]
        assert trial.values == [-loss, latency]


Errors = list[str]


def errors_of(folder: Path, with_mlflow: bool = False, **changes: object) -> Errors:
    """What is wrong with a study, without its folder's name; `changes` are those of its config."""
    file = read_study_file(folder)
    file = file.replace(config=file.config.replace(**changes))
    found = violations(file, folder, with_mlflow)
    return [line.replace(f"{folder}/", "") for line in found]


def edit_journal(folder: Path, trial: int, name: str, change: Callable[[Any], object]) -> None:
    """Changes an attribute of a trial; one that becomes None was never stored."""
    path = folder / "journal.log"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    attributes = [line.get("user_attr", {}) for line in lines if line.get("trial_id") == trial]
    found = [attribute for attribute in attributes if name in attribute]
    assert found
    for attribute in found:
        attribute[name] = change(attribute[name])
    kept = [line for line in lines if None not in line.get("user_attr", {}).values()]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept))


def other_decision(rungs: dict[str, Any]) -> dict[str, Any]:
    place, promoted, losses = rungs["1"]
    return {**rungs, "1": [place, not promoted, losses]}


JOURNAL: dict[str, tuple[int, str, Callable[[Any], object], Errors]] = {
    "Ray's id": (
        1,
        "ray_trial_id",
        lambda _: "4x4-0.001",
        ["trials 0000 and 0001 are one trial of Ray's"],
    ),
    "epoch": (0, "metrics.2", lambda _: None, ["trial 0000 has epochs [1, 3] in the journal"]),
    "latency": (
        0,
        "latency_ms",
        lambda _: math.inf,
        ["trial 0000 is COMPLETE with values that are not finite"],
    ),
    "decision": (
        4,
        "rungs",
        other_decision,
        ["the decision on 0004 at epoch 1 is another now"],
    ),
}


@pytest.mark.parametrize("case", JOURNAL)
def test_another_journal_is_noticed(case: str, copy: Path) -> None:
    trial, name, change, expected = JOURNAL[case]
    edit_journal(copy, trial, name, change)
    assert errors_of(copy) == expected


def test_a_configuration_that_was_trained_twice_is_noticed(copy: Path) -> None:
    first = records_of(copy)["0003"].config
    assert first
    edit_journal(copy, 4, "config", lambda _: first.model_dump_json())
    found = errors_of(copy)
    assert found[0] == "trials 0003 and 0004 trained the same configuration"
    assert all(line.startswith("trial 0004 has ") for line in found[1:])


@pytest.mark.parametrize("objectives", [("miou", "size"), ("miou", "latency")])
def test_a_trial_that_lacks_what_it_ended_with_is_noticed(
    objectives: tuple[str, ...], copy: Path
) -> None:
    name = "metrics.3" if "size" in objectives else "latency_ms"
    edit_journal(copy, 3, name, lambda _: None)
    found = errors_of(copy, objectives=objectives)
    assert found[0] == "trial 0003 is COMPLETE without all of its values"


def test_a_trial_that_lacks_all_its_reports_is_noticed(copy: Path) -> None:
    for epoch in range(1, EPOCHS + 1):
        edit_journal(copy, 0, f"metrics.{epoch}", lambda _: None)
    found = errors_of(copy)
    assert found[0] == "trial 0000 is COMPLETE without all of its values"
    assert any(line.startswith("front.parquet holds ") for line in found)


def test_rows_of_no_trial_are_noticed(copy: Path) -> None:
    for name in ("trials", "front"):
        rows = rows_of(copy, name)
        rows.append({**rows[-1], "trial_id": "0099"})
        pq.write_table(pa.Table.from_pylist(rows), copy / f"{name}.parquet")
    front = sorted(row["trial_id"] for row in rows)
    assert errors_of(copy) == [
        "trial 0099 of trials.parquet is not in the journal",
        f"front.parquet holds {front}, the front is {front[:-1]}",
    ]


def test_another_iou_of_a_class_in_the_table_is_noticed(copy: Path) -> None:
    rows = rows_of(copy, "trials")
    assert [row["iou.class 1"] for row in rows] == [0.5] * len(MIOUS)
    rows[0]["iou.class 1"] = 0.9
    pq.write_table(pa.Table.from_pylist(rows), copy / "trials.parquet")
    told = "trial 0000 has iou.class 1 0.9 in trials.parquet and 0.5 in the journal"
    assert errors_of(copy) == [told]


def without_classes(report: str) -> str:
    kept = {name: value for name, value in json.loads(report).items() if "class" not in name}
    return json.dumps(kept)


def test_a_study_of_a_version_that_did_not_measure_classes_is_whole(copy: Path) -> None:
    for trial_id, record in records_of(copy).items():
        for epoch in record.reports:
            edit_journal(copy, int(trial_id), f"metrics.{epoch}", without_classes)
    for name in ("trials", "front"):
        rows = [
            {key: value for key, value in row.items() if not key.startswith(("iou.", "classes_"))}
            for row in rows_of(copy, name)
        ]
        pq.write_table(pa.Table.from_pylist(rows), copy / f"{name}.parquet")
    assert errors_of(copy, with_mlflow=True) == []


def other_weights(model: Path) -> None:
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)


def other_miou(model: Path) -> None:
    reports = json.loads((model / "metrics.json").read_text())
    reports[-1]["miou"] = 0.25
    (model / "metrics.json").write_text(json.dumps(reports))


MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights": (other_weights, r"{} is not the file that was measured"),
    "mIoU": (other_miou, r"{} has mIoU 0\.25, not 0\.5"),
    "no weights": (
        lambda model: (model / "model.safetensors").unlink(),
        r"{} cannot be read: .*No such file.*",
    ),
    "no report": (
        lambda model: (model / "metrics.json").write_text("[]"),
        r"{} cannot be read: list index out of range",
    ),
    "no reports": (
        lambda model: (model / "metrics.json").write_text("{"),
        r"{} cannot be read: Expecting .*",
    ),
    "another": (
        lambda model: shutil.copytree(model, model.with_name("0099")),
        r"models/0099 is not on the front",
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_another_model_is_noticed(case: str, copy: Path) -> None:
    change, expected = MODELS[case]
    change(copy / "models/0000")
    (found,) = errors_of(copy)
    assert re.fullmatch(expected.format("models/0000/model.safetensors"), found)


def test_a_file_that_was_cut_off_is_an_error_but_not_what_a_killed_worker_left(
    copy: Path,
) -> None:
    worker = copy / "checkpoints/0007"
    worker.mkdir(parents=True)
    for folder in (copy, worker):
        (folder / ".progress").write_text("training the start: epoch 2 of 9")
        (folder / "..progress.0123456789ab").write_text("training the sta")
    assert errors_of(copy) == []
    (copy / ".trials.parquet.x").write_bytes(b"PAR")
    assert errors_of(copy) == [".trials.parquet.x is half-written"]


def run_of(client: MlflowClient, trial: str) -> Run:
    """The trial's run in MLflow."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"tags.`paretoseg.trial` = '{trial}'")
    return run


def copy_run(client: MlflowClient, run: Run, **tags: str) -> None:
    kept = {name: tag for name, tag in run.data.tags.items() if name.startswith("paretoseg.")}
    client.create_run(run.info.experiment_id, tags={**kept, **tags})


RUNS: dict[str, tuple[Callable[[MlflowClient, Run], object], Errors]] = {
    "state": (
        lambda client, run: client.set_tag(run.info.run_id, "state", "FAIL"),
        ["trial 0001 is FAIL in MLflow and COMPLETE here"],
    ),
    "mIoU": (
        lambda client, run: client.log_metric(run.info.run_id, "miou", 0.75, step=EPOCHS + 1),
        [
            "trial 0001 has miou 0.75 in MLflow",
            "trial 0001 has epochs [1, 2, 3, 4] in MLflow",
        ],
    ),
    "size": (
        lambda client, run: client.log_metric(run.info.run_id, "size_bytes", 7, step=EPOCHS + 1),
        ["trial 0001 has size_bytes 7.0 in MLflow"],
    ),
    "IoU of a class": (
        lambda client, run: client.log_metric(run.info.run_id, "iou.class 1", 0.9, step=EPOCHS + 1),
        ["trial 0001 has iou.class 1 0.9 in MLflow"],
    ),
    "parameters": (
        lambda client, run: client.log_param(run.info.run_id, "recipe.charm", 1),
        ["trial 0001 has other parameters in MLflow"],
    ),
    "none": (
        lambda client, run: client.delete_run(run.info.run_id),
        ["trial 0001 has 0 runs in MLflow"],
    ),
    "two": (copy_run, ["trial 0001 has 2 runs in MLflow"]),
    "of no trial": (
        lambda client, run: copy_run(client, run, **{"paretoseg.trial": "0099"}),
        ["trial 0099 of MLflow is not in the journal"],
    ),
}


@pytest.mark.parametrize("case", RUNS)
def test_another_run_in_mlflow_is_noticed(case: str, copy: Path) -> None:
    change, expected = RUNS[case]
    client = MlflowClient(read_study_file(copy).config.tracking_uri)
    change(client, run_of(client, "0001"))
    assert errors_of(copy, with_mlflow=True) == expected


def test_a_store_that_cannot_be_asked_is_noticed(copy: Path) -> None:
    (copy.parent / "mlflow.db").write_bytes(b"no database, " * 100)
    (found,) = errors_of(copy, with_mlflow=True)
    assert re.fullmatch("MLflow at sqlite:.*mlflow.db cannot be asked: .*", found)


def test_params_under_full_paths_are_those_of_version_0_2(copy: Path) -> None:
    file = read_study_file(copy)
    with closing(sqlite3.connect(copy.parent / "mlflow.db")) as database, database:
        database.execute("DELETE FROM params")
    client = MlflowClient(file.config.tracking_uri)
    records = read_asked_records(read_journal(copy, file.config.name))
    for record in records:
        for name, leaf in (record.config.flatten() if record.config else {}).items():
            client.log_param(run_of(client, record.trial_id).info.run_id, name, str(leaf))
    assert errors_of(copy, with_mlflow=True) == []
