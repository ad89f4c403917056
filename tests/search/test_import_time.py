"""Answers that need no framework do not import one, which would take seconds."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STORED = Path(__file__).parent / "study" / "stored_study"
HEAVY = {
    "matplotlib",
    "mlflow",
    "optuna",
    "plotly",
    "pyarrow",
    "ray",
    "sklearn",
    "torch",
    "torchvision",
}


RUN = """
import importlib, logging, sys
module, modules, *argv = sys.argv[1:]
try:
    status = importlib.import_module(module).main(argv)
except SystemExit as leave:
    status = leave.code
with open(modules, "w") as file:
    print(*sys.modules, file=file)
assert not logging.getLogger().handlers  # so that warnings go to stderr as they are
sys.exit(status)
"""


def run(modules: Path, *argv: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Runs the command of a module in a process of its own; the packages that it imported too."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, argv[0], str(modules), *argv[1:]],
        capture_output=True,
        text=True,
        check=False,
    )
    return done, {name.split(".")[0] for name in modules.read_text().split()}


COMMANDS: dict[str, tuple[list[str], int, str]] = {
    "help": (["--help"], 0, ""),
    "list of spaces": (["--list-spaces"], 0, ""),
    "unknown flag": (["--sapce", "qkd"], 2, "unrecognized arguments: --sapce"),
    "no space": ([], 2, "--space must be given"),
    "unknown space": (["--space", "qdk"], 2, "did you mean"),
    "bad text": (["--space", "qkd", "--max-size", "3XB"], 2, "--max-size: a size must be"),
    "resumed nothing": (["--resume", "gone"], 2, "must name an existing study"),
    "bad value": (["--space", "qkd", "--samples", "0"], 2, "--samples: "),
    "taken name": (["--space", "qkd", "--name", "stored"], 2, "or go on with it by --resume"),
    "no such data": (["--space", "qkd", "--data", "/no/where"], 2, "the data folder must exist"),
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


@pytest.mark.parametrize("command", COMPARISONS)
def test_a_comparison_that_ends_at_once_imports_no_framework(command: str, tmp_path: Path) -> None:
    argv, status, message = COMPARISONS[command]
    done, imported = run(tmp_path / "modules", "search.compare", *argv, "--storage", str(STORED))
    assert (done.returncode, message in done.stderr) == (status, True), done.stderr
    assert "pydantic" in imported
    assert imported & HEAVY == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_ends_at_once_imports_no_framework(command: str, tmp_path: Path) -> None:
    argv, status, message = COMMANDS[command]
    done, imported = run(tmp_path / "modules", "search.run", *argv, "--storage", str(STORED))
    assert (done.returncode, message in done.stderr) == (status, True), done.stderr
    assert "pydantic" in imported
    assert imported & HEAVY == set()


def test_an_export_imports_nothing_that_searches_or_plots(tmp_path: Path) -> None:
    shutil.copytree(STORED, tmp_path, dirs_exist_ok=True)
    argv = [str(tmp_path / "stored"), "--max-size", "50KB", "--out", str(tmp_path / "out")]
    done, imported = run(tmp_path / "modules", "search.export", *argv)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert imported & {"matplotlib", "mlflow", "optuna", "plotly", "ray"} == set()
