"""Each name inside a study's folder stands in one place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.storage import layout

ROOT = Path(layout.__file__).parent.parent
NAMES = {
    value
    for name, value in vars(layout).items()
    if name.isupper() and value not in ("ray", "checkpoints")  # also a library, and a key of Ray's
} | {"artifacts", "mlartifacts"}


def strings(path: Path) -> Iterator[str]:
    """The texts in a file, but for its docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            yield str(node.value)


def test_the_names_are_those_of_studies_on_disk() -> None:
    assert {"study.json", "journal.log", "log.txt", "trials.parquet", "front.parquet"} <= NAMES
    assert {"front.png", "front.html", "search.png", "models", ".stop"} <= NAMES
    folder = Path("studies/study")
    assert layout.model_folder(folder, "0000") == folder / "models/0000"
    assert layout.checkpoint_folder(folder, "0000") == folder / "checkpoints/0000"
    assert layout.lock_path(folder.parent, "study") == Path("studies/.study.lock")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_name_stands_in_the_layout_alone(path: Path) -> None:
    if path != Path(layout.__file__):
        assert NAMES.isdisjoint(strings(path))
