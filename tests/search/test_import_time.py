"""Answers that need no framework do not import one, which would take seconds."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

STORED = Path(__file__).parent / "study" / "stored_study"
HEAVY = {
    "matplotlib",
    "mlflow",
    "optuna",
    "pyarrow",
    "ray",
    "sklearn",
    "torch",
    "torchvision",
}


RUN = """
import importlib, io, json, logging, sys
from contextlib import redirect_stderr, redirect_stdout

answers = []
for module, *argv in map(json.loads, sys.argv[1:]):
    with redirect_stderr(io.StringIO()) as errors, redirect_stdout(io.StringIO()):
        try:
            status = importlib.import_module(module).main(argv)
        except SystemExit as leave:
            status = leave.code
    assert not logging.getLogger().handlers  # so that warnings go to stderr as they are
    answers.append((status, errors.getvalue(), list(sys.modules)))
print(json.dumps(answers))
"""
Answer = tuple[int, str, set[str]]


def run(*commands: Sequence[str]) -> list[Answer]:
    """Runs commands, each given as a module and its arguments, in one process of their own.

    Returns:
        for each the exit status, what it wrote to stderr and which packages were imported by then.
    """
    argv = [sys.executable, "-c", RUN, *map(json.dumps, commands)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")  # nothing past Python's own stream either
    return [
        (status, errors, {name.split(".")[0] for name in modules})
        for status, errors, modules in json.loads(done.stdout)
    ]


COMMANDS: dict[str, tuple[list[str], int, str]] = {
    "help": (["--help"], 0, ""),
    "unknown flag": (["--sapce", "qkd"], 2, "unrecognized arguments: --sapce"),
    "no space": ([], 2, "--space must be given"),
    "unknown space": (["--space", "qdk"], 2, "did you mean"),
    "bad text": (["--space", "qkd", "--max-size", "3XB"], 2, "--max-size: a size must be"),
    "resumed nothing": (["--resume", "gone"], 2, "must name an existing study"),
    "bad value": (["--space", "qkd", "--samples", "0"], 2, "--samples: "),
    "taken name": (["--space", "qkd", "--name", "stored"], 2, "or go on with it by --resume"),
    "no such data": (
        ["--space", "qkd", "--data", "/no/where"],
        2,
        "must be a folder that exists",
    ),
    "too many cores": (["--space", "qkd", "--cpus-per-trial", "9999"], 2, "must not exceed"),
    "kept field": (["--resume", "stored", "--seed", "99"], 2, "must keep its --seed"),
}


COMPARISONS: dict[str, tuple[list[str], int, str]] = {
    "help": (["--help"], 0, ""),
    "no recipes": ([], 2, "--recipes must be given"),
    "unknown recipe": (["--recipes", "qat", "distil"], 2, "did you mean distill"),
    "bad value": (["--recipes", "qat", "distill", "--seeds", "0"], 2, "--seeds: "),
    "too short": (["--recipes", "qat", "distill", "--epochs", "1"], 2, "--epochs must be at least"),
}


@pytest.fixture(scope="module")
def answers() -> dict[tuple[str, str], Answer]:
    """By module and name of the command."""
    return {
        (module, name): answer
        for module, commands in (("search.run", COMMANDS), ("search.compare", COMPARISONS))
        for name, answer in zip(
            commands,
            run(*[(module, *argv, "--storage", str(STORED)) for argv, _, _ in commands.values()]),
            strict=True,
        )
    }


@pytest.mark.parametrize("command", COMPARISONS)
def test_a_comparison_that_ends_at_once_imports_no_framework(
    command: str, answers: dict[tuple[str, str], Answer]
) -> None:
    check(COMPARISONS[command], answers["search.compare", command])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_ends_at_once_imports_no_framework(
    command: str, answers: dict[tuple[str, str], Answer]
) -> None:
    check(COMMANDS[command], answers["search.run", command])


def check(command: tuple[list[str], int, str], answer: Answer) -> None:
    _, expected_status, message = command
    status, errors, imported = answer
    assert (status, message in errors) == (expected_status, True), errors
    assert "pydantic" in imported
    assert imported & HEAVY == set()


def test_an_export_and_a_prediction_import_nothing_that_searches_or_plots(tmp_path: Path) -> None:
    shutil.copytree(STORED, tmp_path, dirs_exist_ok=True)
    argv = [str(tmp_path / "stored"), "--max-size", "50KB", "--out", str(tmp_path / "out")]
    exported, predicted = run(["search.export", *argv], ["search.predict", "--help"])
    assert (exported[:2], predicted[:2]) == ((0, ""), (0, ""))
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert predicted[2] & {"matplotlib", "mlflow", "optuna", "ray"} == set()
