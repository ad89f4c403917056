"""Imports run one way: search -> spaces -> trainables.config -> the parts."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    path
    for package in ("search", "trainables", "spaces")
    for path in (ROOT / package).rglob("*.py")
]
ONLY_IN = {
    "ray": {
        "trainables/trainable.py",
        "search/cluster.py",
        "search/cluster_address.py",
        "search/scheduler.py",
        "search/searcher.py",
    },
    "mlflow": {"search/tracking.py"},
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


def test_files_are_found() -> None:
    assert len(FILES) > 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_house_rules(path: Path) -> None:
    package, name, packages = (
        path.relative_to(ROOT).parts[0],
        path.relative_to(ROOT),
        imported(path),
    )
    if package in ("trainables", "spaces"):
        assert "search" not in packages
    if package == "trainables":
        assert not packages & {"optuna", "mlflow", "spaces"}
    for library, allowed in ONLY_IN.items():
        if str(name) not in allowed:
            assert library not in packages
