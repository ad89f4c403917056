"""Comparisons through the command line: bad input, and whole ones in processes of their own."""

import os
import shutil
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from command_server import Command, finish, run_afresh
from drivers import children, wait_for_end
from mlflow import MlflowClient
from study_factories import bring_store

from search.compare import config_from_arguments, main, make_parser
from search.core.comparison_config import ComparisonConfig
from search.core.tracking_uri import default_tracking_uri
from search.core.training_defaults import chosen_defaults
from search.execution.resources import num_cores
from trainables.config import TrialConfig
from trainables.models.backbones import Backbone
from trainables.models.configs import StudentConfig, UNetConfig
from trainables.recipes.configs import AdamW, Qat, Supervised

ROOT = Path(__file__).parent.parent.parent
PAIR = ["--recipes", "supervised", "distill"]
SAID = {"importing PyTorch and Ray", "checking the comparison and its data"}
"""What a comparison says before it is refused."""
TRACING = "tracing "
"""How the line begins that names a network to compress."""

OF_NO_LAYER = '{"nosuch":{"weight_bits":4,"activation_bits":8}}'
BAD: dict[str, tuple[list[str], str]] = {
    "no recipes": ([], "--recipes must be given, the reference first"),
    "one recipe": (["--recipes", "qat"], "--recipes: .*compared with it, but got qat alone"),
    "unknown recipe": (["--recipes", "supervised", "distil"], "'distil'; did you mean distill"),
    "missing file": (["--recipes", "supervised", "/no/c.json"], "file, but got '/no/c.json'"),
    "unknown path": (
        ["--recipes", "supervised", "distill losses.pixelwise.wait=1"],
        "argument --recipes: losses.pixelwise.wait: Extra inputs are not permitted",
    ),
    "bad value": (
        ["--recipes", "supervised", "distill optimizer.learning_rate=-1"],
        "--recipes: optimizer.learning_rate: .*greater than 0, but got -1",
    ),
    "bits of no layer": (
        ["--recipes", "supervised", f"qat quantizer.layers={OF_NO_LAYER}"],
        "quantizer.layers must name layers of the model, but got 'nosuch'",
    ),
    "twice": (["--recipes", "qat", "qat"], "--recipes: .*own name, as NAME=qat"),
    "no seeds": ([*PAIR, "--seeds", "0"], "--seeds: .*greater than or equal to 1, but got 0"),
    "no epochs": ([*PAIR, "--epochs", "0"], "--epochs: .*greater than or equal to 1, but got 0"),
    "too short": (
        ["--recipes", "supervised", "qat", "--epochs", "1"],
        "--epochs must be at least 2 for qat, .* but got 1",
    ),
    "no student": ([*PAIR, "--students", "vnet"], "--students: each must be one of .*'vnet'"),
    "odd student": ([*PAIR, "--students", "unet width=0"], "--students: width: .*but got 0"),
    "views": ([*PAIR, "--teacher-outputs", "views"], "argument --teacher-outputs: invalid choice"),
    "no data": (
        [*PAIR, "--data", "/no/where"],
        "--data must be a folder that exists",
    ),
    "no teacher": (
        [*PAIR, "--teacher", "/no/file"],
        "--teacher must be auto, a model file",
    ),
    "no unlabelled images": ([*PAIR, "--unlabelled", "/no/where"], "--unlabelled must exist, but"),
    "unlabelled images for none": (
        ["--recipes", "supervised", "qat", "--unlabelled", "/tmp"],
        "--unlabelled must be for students that learn from a teacher, but got /tmp",
    ),
    "bad name": ([*PAIR, "--name", "../up"], "--name: .*but got '../up'"),
    "odd store": ([*PAIR, "--tracking-uri", "ftp://x"], "--tracking-uri must name an MLflow"),
    "too many cores": ([*PAIR, "--cpus-per-trial", "9999"], "must not exceed the .*got 9999"),
    "no cores": ([*PAIR, "--cpus-per-trial", "0"], "--cpus-per-trial: .*greater than 0, but got 0"),
    "fewer GPUs": ([*PAIR, "--gpus-per-trial", "-1"], "--gpus-per-trial: .*but got -1"),
    "not original": (["--recipes", "supervised", "original"], "for a network that came trained"),
    "builder of nothing": ([*PAIR, "--builder", "a:b"], "--builder needs --compress"),
    "head of nothing": ([*PAIR, "--new-head"], "--new-head needs --compress"),
    "float of nothing": ([*PAIR, "--allow-float"], "--allow-float needs --compress"),
    "teacher's builder of nothing": (
        [*PAIR, "--teacher-builder", "a:b"],
        "--teacher-builder needs --teacher FILE",
    ),
    "seeds of a teacher that came trained": (
        [*PAIR, "--compress", "a", "--teacher-seeds", "2"],
        "--teacher-seeds must be 1 for a teacher that is not trained on the data, but got 2",
    ),
    "no network": ([*PAIR, "--compress", "/no/n.pth"], "--compress must be a model file, .*/no/n"),
    "no weights for a teacher": (
        [*PAIR, "--teacher", "/no/n.pth", "--teacher-builder", "a:b"],
        "--teacher must be a file with weights, but there is no /no/n.pth",
    ),
    "no weights of backbones": (
        [*PAIR, "--students", "unet_mobilenet_v1", "--backbone-weights", "/no/w.pth"],
        "--backbone-weights must be a file, but there is no /no/w.pth",
    ),
    "weights for no backbone": (
        [*PAIR, "--backbone-weights", "/no/w.pth"],
        "--backbone-weights needs --students, or a --teacher, with backbones, such as",
    ),
}


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The line on stderr with which a command line is refused."""
    try:
        status = main(list(argv))
    except SystemExit as leave:  # argparse's way
        status = int(leave.code or 0)
    printed = capsys.readouterr()
    assert status == 2, printed.err
    said = {line for line in printed.out.splitlines() if not line.startswith(TRACING)}
    assert said <= SAID
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_line_and_nothing_is_written(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, message = BAD[case]
    line = answer(capsys, *argv, "--storage", str(tmp_path / "studies"))
    with pytest.raises(ValueError, match=message):
        raise ValueError(line)
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "known").mkdir()
    (tmp_path / "known/study.json").write_text("{}")
    argv = [*PAIR, "--storage", str(tmp_path), "--name", "known"]
    assert "known exists and is no comparison" in answer(capsys, *argv)
    (tmp_path / "known/comparison.json").write_text("{}")
    assert "comparison.json is damaged" in answer(capsys, *argv)


def config_of(*argv: str) -> ComparisonConfig:
    return config_from_arguments(make_parser().parse_args([*PAIR, *argv]))


def test_a_network_is_a_student_before_others_and_the_same_wherever_its_file_lies(
    foreign_file: Path, tmp_path: Path
) -> None:
    network = ["--compress", str(foreign_file), "--builder", "foreign_networks:foreign"]
    config = config_of(*network)
    (student,) = config.students
    assert (student.describe(), student.is_trained) == ("net", True)
    moved = shutil.copy(foreign_file, tmp_path)
    same = config_of("--compress", str(moved), *network[2:])
    assert (same.name, same.students) == (config.name, config.students)
    several = config_of(*network, "--new-head", "--students", "unet width=4,unet width=8").students
    assert [student.describe() for student in several] == ["net", "unet 4", "unet 8"]
    assert not several[0].is_trained


def test_weights_of_a_backbone_are_for_the_students_that_it_fits(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(Backbone("mobilenet_v1", 0.5, is_dilated=False).network.state_dict(), file)
    names = "unet,unet_mobilenet_v1 channels=16,unet_mobilenet_v1 channels=32"
    config = config_of("--students", names, "--backbone-weights", str(file))
    assert [student.describe() for student in config.students] == [
        "unet 16",
        "unet mnv1 0.5/16",
        "unet mnv1 0.5/32",
    ]
    assert [student.is_pretrained for student in config.students] == [False, True, True]


ONE_AT_A_TIME = ["--cpus-per-trial", str(num_cores())]
"""Each training that runs beside another is a process more that imports PyTorch."""


def test_a_teacher_may_be_a_student_with_weights(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(Backbone("mobilenet_v1", 0.5, is_dilated=False).network.state_dict(), file)
    teacher = ["--teacher", "unet_mobilenet_v1", "--backbone-weights", str(file)]
    for students in ([], ["--students", "unet"]):
        config = config_of(*teacher, *students)
        assert [student.describe() for student in config.students] == ["unet 16"]
        assert isinstance(config.teacher, StudentConfig)
        assert config.teacher.describe() == "unet mnv1 0.5"
        assert config.teacher.is_pretrained
        assert ComparisonConfig.model_validate_json(config.model_dump_json()) == config
        assert chosen_defaults(config).default_teacher_config(3).student == config.teacher
    wide = config_of("--teacher", "unet width=64")
    assert wide.teacher == UNetConfig(width=64)
    with pytest.raises(ValueError, match=r"must name a student with a backbone for .*pth"):
        config_of("--teacher", "unet", "--backbone-weights", str(file))


def run(*argv: str, **environment: str) -> str:
    """What a comparison says in a process of its own."""
    done = finish("search.compare", *argv, **environment)
    assert done.returncode == 0, done.said + done.errors
    assert "Traceback" not in done.errors
    return done.said


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Configuration files: a student that learns the blocks, quantized, and one that diverges."""
    learns = Supervised(optimizer=AdamW(learning_rate=1e-2))
    diverges = Supervised(optimizer=AdamW(learning_rate=1e6))
    configs = {
        "plain": TrialConfig(recipe=learns, num_epochs=6, student=UNetConfig(width=4, depth=2)),
        "quantized": TrialConfig(
            recipe=Qat(start=learns, start_epochs=4),
            num_epochs=2,
            student=UNetConfig(width=4, depth=2),
        ),
        "diverges": TrialConfig(
            recipe=diverges, num_epochs=6, student=UNetConfig(width=4, depth=2)
        ),
    }
    folder = tmp_path_factory.mktemp("points")
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(config.model_dump_json())
    return [str(folder / f"{name}.json") for name in configs]


@pytest.mark.slow
def test_a_comparison_on_the_built_in_data(tmp_path: Path) -> None:
    students = ["--students", "unet width=4 depth=3", "--epochs", "6", "--seeds", "2"]
    argv = ["--recipes", "supervised", "ptq", *students, "--storage", str(tmp_path)]
    done = run_afresh("search.compare", *argv)
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout
    assert "192 optimizer steps each, 2 seeds" in said
    (folder,) = tmp_path.glob("compare-shapes-*")
    rows = pq.read_table(folder / "comparison.parquet").to_pylist()
    assert len(rows) == 4
    assert {row["start_steps"] + row["own_steps"] for row in rows} == {192}
    finished = [row for row in rows if row["state"] == "COMPLETE"]
    assert {row["recipe.name"] for row in finished} == {"supervised", "ptq"}
    for row in finished:
        assert f"{row['trial_id']}: mIoU {100 * row['miou']:.1f} %" in said
    # calibration starts from the reference itself: there is no training but those of the table
    assert len(list((tmp_path / "artifacts").glob("student-*"))) == len(finished)


@pytest.mark.slow
def test_a_killed_comparison_goes_on_and_is_extended(
    blocks_folder: Path,
    teacher_file: Path,
    points: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bring_store(tmp_path)
    argv = ["--data", str(blocks_folder), "--image-size", "32", "--teacher", str(teacher_file)]
    argv += ["--recipes", points[0], points[1], f"fails={points[2]}", "--name", "blocks"]
    argv += ["--storage", str(tmp_path), "--checkpoint-every", "500ms", *ONE_AT_A_TIME]
    folder, artifacts = tmp_path / "blocks", tmp_path / "artifacts"

    driver = Command("search.compare", *argv, "--seeds", "2", own_group=True)
    driver.wait_for("plain, seed 0: mIoU")
    of_ray = children(driver.pid, "")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_for_end(of_ray)
    before = {path.name: path.stat().st_mtime_ns for path in artifacts.glob("student-*")}
    assert before

    said = run(*argv, "--seeds", "2")
    for name, modified in before.items():  # found, not trained again
        assert (artifacts / name).stat().st_mtime_ns == modified
    assert "unet 4 depth 2, fails, seed 1 failed, its pair is left out: not" in said
    first = pq.read_table(folder / "comparison.parquet").to_pylist()
    assert [row["state"] for row in first] == ["COMPLETE"] * 4 + ["FAIL"] * 2
    assert [row["start_steps"] for row in first] == [0, 0, 32, 32, 0, 0]
    assert {path.name for path in folder.iterdir()} == {
        "comparison.json",
        "comparison.md",
        "comparison.parquet",
        "comparison.png",
        "comparison.svg",
        "log.txt",
    }

    run(*argv, "--seeds", "3")
    rows = {
        row["trial_id"]: row for row in pq.read_table(folder / "comparison.parquet").to_pylist()
    }
    assert len(rows) == 9
    assert all(rows[row["trial_id"]]["miou"] == row["miou"] for row in first)
    check_mlflow(tmp_path, rows)

    capsys.readouterr()
    assert main([*argv, "--seeds", "3", "--epochs", "7"]) == 2
    refused = capsys.readouterr()
    assert refused.out.splitlines()[-1] == "checking the comparison and its data"
    assert "Traceback" not in refused.err


@pytest.mark.slow
def test_networks_that_came_trained_are_compared(
    blocks_folder: Path, foreign_file: Path, tmp_path: Path
) -> None:
    bring_store(tmp_path)
    argv = ["--recipes", "supervised", "distill", "qat", "--seeds", "1", "--epochs", "2"]
    argv += ["--data", str(blocks_folder), "--image-size", "32", *ONE_AT_A_TIME]
    for flag in ("--compress", "--teacher"):
        argv += [flag, str(foreign_file)]
    argv += ["--builder", "foreign_networks:foreign"]
    argv += ["--teacher-builder", "foreign_networks:foreign"]
    argv += ["--storage", str(tmp_path), "--name", "trained"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    said = run(*argv, PYTHONPATH=path)
    assert "pretrained weights of net: " in said
    rows = pq.read_table(tmp_path / "trained/comparison.parquet").to_pylist()
    assert [row["trial_id"] for row in rows] == [
        f"net, {name}, seed 0" for name in ("supervised", "distill", "qat")
    ]
    assert {(row["state"], row["start_steps"], row["own_steps"]) for row in rows} == {
        ("COMPLETE", 0, 16)
    }
    assert rows[2]["recipe.start.name"] == "original"


def check_mlflow(storage: Path, rows: dict[str, dict[str, object]]) -> None:
    """One parent run, and a child for each training, however often the command ran."""
    client = MlflowClient(default_tracking_uri(storage))
    (experiment,) = (e for e in client.search_experiments() if e.name != "Default")
    runs = client.search_runs([experiment.experiment_id])
    children = {r.data.tags["paretoseg.trial"]: r for r in runs}
    parent = children.pop("study")
    assert set(children) == set(rows)
    for name, child in children.items():
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["state"] == rows[name]["state"]
        assert child.data.params["seed"] == str(rows[name]["seed"])
        assert child.data.metrics.get("miou") == rows[name]["miou"]
    numbers = parent.data.metrics
    name = "unet 4 depth 2 quantized"
    assert (
        numbers[f"difference_low/{name}"]
        <= numbers[f"difference/{name}"]
        <= numbers[f"difference_high/{name}"]
    )
    names = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert names >= {"comparison.md", "comparison.png", "comparison.parquet"}
