"""Whole searches in a temporary folder, through the command line."""

import json
import shutil
from pathlib import Path

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_server import Command, finish, run_afresh
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from PIL import Image
from study_factories import bring_store

from search import check
from search.core.tracking_uri import default_tracking_uri
from search.execution.resources import num_cores
from search.storage.trials import read_record
from trainables.models.model_file import read_model, read_spec

pytestmark = pytest.mark.slow

ONE_AT_A_TIME = ["--cpus-per-trial", str(num_cores())]
LIMITS = ["--name", "tiny", "--max-size", "600KB", *ONE_AT_A_TIME]
"""One trial at a time, so that the sampler knows the same whenever it is asked."""


HOMELESS = {"HOME": "/dev/null"}
"""The home folder cannot be written, as in many containers. The first study also imports so."""


def run(*argv: str) -> Command:
    """A search, after its end."""
    return finish("search.run", *argv, **HOMELESS)


@pytest.fixture(scope="session")
def common(blocks_folder: Path, teacher_file: Path) -> list[str]:
    argv = ["--space", "qkd", "--data", str(blocks_folder), "--image-size", "32"]
    return [*argv, "--teacher", str(teacher_file), "--epochs", "3", "--scheduler", "none"]


@pytest.fixture(scope="session")
def storage(
    common: list[str], unlabelled_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A study of four trials, resumed for a fifth, at a path that is hard to name.

    Its unlabelled images were moved before it is resumed.
    """
    outer = tmp_path_factory.mktemp("studies")
    folder = outer / "Stüdies 数 'a' \"b\"?c%2Fd#e:f"
    where = ["--storage", str(folder)]
    more = ["--unlabelled", str(unlabelled_folder)]
    argv = [*common, *where, *LIMITS, "--samples", "4", *more]
    first = run_afresh("search.run", *argv, **HOMELESS)
    assert (first.returncode, first.stderr) == (0, "")
    assert f"unlabelled images: 12 of {unlabelled_folder}, packed in " in first.stdout
    for words in ("IoU % val", "warning: the teacher never predicts ", "never predicted"):
        assert words in first.stdout
    for words in ("Pareto front", "python -m search.ui", "search.export", "log.txt"):
        assert words in first.stdout
    moved = tmp_path_factory.mktemp("moved") / "images"
    shutil.copytree(unlabelled_folder, moved)
    again = run(*where, "--resume", "tiny", "--samples", "5", "--unlabelled", str(moved))
    assert (again.returncode, again.errors) == (0, "")
    assert f"unlabelled images: 12 of {moved}, found in " in again.said
    for lines in (first.stdout.splitlines(), again.said.splitlines()):
        begins = [line.split(":")[0] for line in lines[-3:]]
        assert begins == ["export a point", "and use it", "compare runs"]
    assert list(outer.iterdir()) == [folder]
    return folder


def rows(folder: Path, name: str = "trials") -> list[dict[str, object]]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def journal(folder: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    return optuna.load_study(study_name=folder.name, storage=storage)


def test_what_auto_came_to_is_kept(storage: Path) -> None:
    kept = json.loads((storage / "tiny" / "study.json").read_text())
    assert kept["config"]["teacher_outputs"] == "maps"
    assert len(list((storage / "artifacts").glob("outputs-*"))) == 2  # and of unlabelled images


def test_the_resumed_study_has_its_fifth_trial(storage: Path) -> None:
    table = rows(storage / "tiny")
    trained = [row for row in table if not str(row["reason"]).startswith("over budget")]
    assert len(trained) == 5
    assert {row["state"] for row in trained} == {"COMPLETE"}


def test_parquet_and_journal_agree_row_by_row(storage: Path) -> None:
    folder = storage / "tiny"
    trials = journal(folder).get_trials()
    assert TrialState.RUNNING not in {trial.state for trial in trials}
    for row, trial in zip(rows(folder), trials, strict=True):
        record = read_record(trial)
        assert record.config is not None
        assert row["trial_id"] == record.trial_id
        assert row["state"] == record.state
        assert row["config_digest"] == record.config.digest()
        assert {name: row[name] for name in trial.params} == trial.params
        if record.state == "COMPLETE":
            assert [row["miou"], row["size_bytes"]] == trial.values
            assert row["size_bytes"] == row["predicted_size_bytes"]


def test_parquet_and_mlflow_agree_row_by_row(storage: Path) -> None:
    client = MlflowClient(default_tracking_uri(storage))
    (experiment,) = (e for e in client.search_experiments() if e.name != "Default")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert {run.data.tags["unlabelled_images"] for run in runs} == {"12"}
    parents = [r for r in runs if r.data.tags["paretoseg.trial"] == "study"]
    children = {r.data.tags["paretoseg.trial"]: r for r in runs if r not in parents}
    table = {str(row["trial_id"]): row for row in rows(storage / "tiny")}
    front = {row["trial_id"] for row in rows(storage / "tiny", "front")}
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    names = [name.removeprefix("iou.") for name in table["0000"] if name.startswith("iou.")]
    assert len(names) == 5
    teacher = {f"teacher.{split}iou.{name}" for split in ("", "train.") for name in names}
    assert teacher <= set(parents[0].data.metrics)
    assert set(children) == set(table)
    found = client.search_logged_models([parents[0].info.experiment_id])
    models = {model.tags["paretoseg.trial"]: model for model in found}
    for trial_id, child in children.items():
        row = table[trial_id]
        assert child.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
        assert child.data.tags["state"] == row["state"]
        assert child.data.tags["front"] == str(trial_id in front).lower()
        assert child.data.tags["space"] == "qkd"
        assert child.data.params["width"] == str(row["student.width"])
        if row["state"] == "COMPLETE":
            assert child.data.metrics["miou"] == row["miou"]
            assert child.data.metrics["size_bytes"] == row["size_bytes"]
            for name in (*(f"iou.{name}" for name in names), "classes_never_predicted"):
                assert child.data.metrics[name] == row[name]
            history = client.get_metric_history(child.info.run_id, "miou")
            assert sorted({m.step for m in history}) == [1, 2, 3]
        has_masks = bool(client.list_artifacts(child.info.run_id, "images"))
        assert has_masks >= (trial_id in front)
        assert has_masks == (trial_id in models)
        if trial_id in models:
            assert models[trial_id].tags["front"] == str(trial_id in front).lower()
    names = {artifact.path for artifact in client.list_artifacts(parents[0].info.run_id)}
    assert names >= {"search.png", "front.png", "front.html", "trials.parquet", "front.parquet"}


def test_the_front_s_models_are_the_files_that_were_measured(storage: Path) -> None:
    folder = storage / "tiny"
    front = rows(folder, "front")
    assert front
    assert {path.name for path in (folder / "models").iterdir()} == {
        row["trial_id"] for row in front
    }
    for row in front:
        model = folder / "models" / str(row["trial_id"])
        assert (model / "model.safetensors").stat().st_size == row["size_bytes"]
        config = json.loads((model / "config.json").read_text())
        assert config["student"]["width"] == row["student.width"]
        assert read_spec(model / "model.safetensors").num_classes == 5
        read_model(model / "model.safetensors")
        with Image.open(model / "masks.png") as picture:
            picture.load()


def test_study_json_says_what_ran(storage: Path) -> None:
    content = json.loads((storage / "tiny/study.json").read_text())
    assert content["config"]["samples"] == 5
    assert content["config"]["seed"] == 0
    assert set(content["versions"]) >= {"python", "torch", "ray", "optuna", "mlflow"}
    assert content["data_digest"].startswith("data-")


def test_nothing_of_ray_is_left(storage: Path) -> None:
    names = {path.name for path in (storage / "tiny").iterdir()}
    assert names == {
        "examples.npz",
        "front.html",
        "front.parquet",
        "front.png",
        "journal.log",
        "log.txt",
        "models",
        "search.png",
        "study.json",
        "teacher-masks.png",
        "trials.parquet",
    }


def read_log(folder: Path) -> str:
    return (folder / "log.txt").read_text()


def test_the_study_is_whole(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(storage / "tiny")]) == 0
    assert "is whole" in capsys.readouterr().out


def spoil_table(folder: Path) -> None:
    table = pq.read_table(folder / "trials.parquet").to_pylist()
    table[0]["miou"] = 0.99
    pq.write_table(pa.Table.from_pylist(table[:-1]), folder / "trials.parquet")


def spoil_front(folder: Path) -> None:
    table = pq.read_table(folder / "front.parquet")
    pq.write_table(table.slice(1), folder / "front.parquet")


def spoil_model(folder: Path) -> None:
    model = next((folder / "models").glob("*/model.safetensors"))
    model.write_bytes(model.read_bytes() + b"x")


def spoil_journal(folder: Path) -> None:
    journal(folder).ask()


SPOILED = {
    "table": (spoil_table, ["has miou 0.99 in trials.parquet", "is not in trials.parquet"]),
    "front": (spoil_front, ["the front is"]),
    "model": (spoil_model, ["bytes, not"]),
    "journal": (spoil_journal, ["is RUNNING although", "has 0 runs in MLflow"]),
    "leftover": (lambda folder: (folder / ".half").touch(), [".half is half-written"]),
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_disagrees_is_named(
    case: str, storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, messages = SPOILED[case]
    copy = tmp_path / "tiny"
    shutil.copytree(storage / "tiny", copy)
    spoil(copy)
    assert check.main([str(copy)]) == 1
    printed = capsys.readouterr().err
    assert "is not whole" in printed
    for message in messages:
        assert message in printed
    assert check.main([str(tmp_path)]) == 2


def test_no_trial_finished_is_exit_status_1(
    blocks_folder: Path, tmp_path: Path, common: list[str]
) -> None:
    bring_store(tmp_path)
    argv = [*common, "--storage", str(tmp_path), "--samples", "2", "--time-budget", "1s"]
    result = run(*argv)
    assert result.returncode == 1, result.errors
    assert (tmp_path / "qkd-blocks/trials.parquet").is_file()
    assert {row["state"] for row in rows(tmp_path / "qkd-blocks")} <= {"PRUNED"}


def test_what_is_left_of_the_time_trains_the_front_again(common: list[str], tmp_path: Path) -> None:
    bring_store(tmp_path)
    argv = [*common, "--name", "twice", "--storage", str(tmp_path), "--samples", "2"]
    result = run(*argv, "--time-budget", "10m")
    assert result.returncode == 0, result.errors
    front = rows(tmp_path / "twice", "front")
    assert front
    for row in front:
        assert f"trial {row['trial_id']} with another seed: mIoU" in result.said
        assert 0 < row["other_seed_miou"] < 1
        assert row["seed"] == 0
    assert "other seed" in result.said
    assert check.main([str(tmp_path / "twice")]) == 0
    client = MlflowClient(default_tracking_uri(tmp_path))
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.front = 'true'")
    told = {each.data.metrics["other_seed_miou"] for each in runs}
    assert told == {row["other_seed_miou"] for row in front}


BY_THE_CLOCK = ("device_seconds", "start_seconds", "latency_ms", "latency_disturbed")


def test_a_study_without_an_interruption_has_the_same_front(
    common: list[str], storage: Path, unlabelled_folder: Path, tmp_path: Path
) -> None:
    """The two share a seed and nothing else, not even artifacts."""
    bring_store(tmp_path)
    more = ["--samples", "5", "--unlabelled", str(unlabelled_folder)]
    result = run(*common, *LIMITS, "--storage", str(tmp_path), *more, "--quiet")
    assert result.returncode == 0, result.errors
    assert "Pareto front" in result.said
    assert "checking the study" not in result.said
    assert "training" not in result.said
    first, second = (
        [{k: v for k, v in row.items() if k not in BY_THE_CLOCK} for row in rows(folder, "front")]
        for folder in (storage / "tiny", tmp_path / "tiny")
    )
    assert first == second


def test_a_warm_study_tries_the_earlier_front_first_and_ends_when_flat(
    storage: Path, blocks_folder: Path
) -> None:
    """A study of another space, until nothing more is gained; the time left is for other seeds."""
    earlier = storage / "tiny"
    argv = ["--space", "qat", "--data", str(blocks_folder), "--image-size", "32", "--epochs", "1"]
    argv += ["--storage", str(earlier.parent), "--name", "warm", "--warm-start", "tiny"]
    argv += ["--stop-when-flat", "0.9", "--time-budget", "10m"]
    done = run(*argv, *ONE_AT_A_TIME, "--samples", "40")
    assert done.returncode == 0, done.errors
    assert "ended before all trials were asked" in done.said
    assert "with another seed: mIoU" in done.said
    warm = earlier.with_name("warm")
    tried = [row["student.width"] for row in rows(warm)]
    front = [row["student.width"] for row in rows(earlier, "front")]
    assert tried[: len(front)] == front
    assert len(tried) < 40
    assert "ended before all trials were asked: 5 proposals in a row" in read_log(warm)
    assert check.main([str(warm)]) == 0
    # one epoch is too short for some students
    assert "COMPLETE" in {row["state"] for row in rows(warm)} <= {"COMPLETE", "FAIL"}
