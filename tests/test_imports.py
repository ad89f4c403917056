"""Imports run downwards: commands -> study -> ... -> core, and search -> spaces -> trainables."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spaces import space_names
from trainables.losses.configs import Term
from trainables.models.configs import NetworkConfig
from trainables.quantization.quantizers.base import QuantizerConfig
from trainables.recipes.configs import Recipe

ROOT = Path(__file__).parent.parent
FLOORS = {
    "search": (
        ("core",),
        ("storage",),
        ("algorithms", "analysis", "cloud", "deployment"),
        ("tracking",),
        ("execution",),
        ("study",),
        ("comparison",),
        ("run", "check", "compare", "export", "predict", "results"),
        ("cluster", "server", "status", "ui"),
    ),
    "trainables": (
        ("core",),
        ("data", "quantization"),
        ("models",),
        ("losses",),
        ("recipes",),
        ("config",),
        ("teachers",),
        ("training",),
        ("deploy",),
        ("train", "cache", "convert", "trainable"),
    ),
}
"""Of each package, its parts from the lowest floor up. No part imports from a floor above."""
ONLY_IN = {
    "boto3": ("search/cluster.py",),
    "botocore": ("search/cloud/", "search/cluster.py"),
    "ray": ("search/execution/", "trainables/trainable.py"),
    "mlflow": ("search/tracking/",),
    "matplotlib": ("search/analysis/",),
    "onnx": ("trainables/deploy/",),
    "onnxruntime": ("trainables/deploy/",),
    "optuna": ("search/", "spaces/"),
    "triton": ("trainables/quantization/quantizers/",),
    "optuna_dashboard": ("search/tracking/",),
}
"""Where a heavy library may be imported."""
FILES = sorted(
    path.relative_to(ROOT)
    for package in ("search", "trainables", "spaces")
    for path in (ROOT / package).rglob("*.py")
)


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor_of(package: str, part: str) -> int:
    return next(floor for floor, parts in enumerate(FLOORS[package]) if part in parts)


def test_every_part_has_a_floor() -> None:
    for package, floors in FLOORS.items():
        parts = {path.parts[1].removesuffix(".py") for path in FILES if path.parts[0] == package}
        assert parts - {"__init__"} == {part for floor in floors for part in floor}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_downwards(path: Path) -> None:
    package, part = path.parts[0], path.parts[1].removesuffix(".py")
    for name in imports(path):
        target, *rest = name.split(".")
        if target in FLOORS and target == package and rest and part != "__init__":
            assert floor_of(package, rest[0]) <= floor_of(package, part), name
        if package == "trainables":
            assert target not in ("search", "spaces"), name
        if package == "spaces":
            assert target != "search", name


@pytest.mark.parametrize("path", FILES, ids=str)
def test_heavy_libraries_enter_in_one_place(path: Path) -> None:
    for name in imports(path):
        if (library := name.split(".")[0]) in ONLY_IN:
            assert str(path).startswith(ONLY_IN[library]), name


MEMBERS = {
    "models": (NetworkConfig, ("spaces/",)),
    "quantization/quantizers": (QuantizerConfig, ("spaces/",)),
    "losses": (Term, ("spaces/", "trainables/recipes/")),
    "recipes": (Recipe, ("spaces/", "trainables/training/defaults.py")),
}
"""Of each folder of trainables that holds a union, its base, and who else may name a member."""


@pytest.mark.parametrize("path", FILES, ids=str)
def test_only_its_own_package_names_a_member_of_a_union(path: Path) -> None:
    for folder, (base, others) in MEMBERS.items():
        if str(path).startswith((f"trainables/{folder}/", *others)):
            continue
        members = {member.__name__ for member in base.members().values()}
        assert not members & {name.split(".")[-1] for name in imports(path)}


FRAMEWORKS = ("torch", "torchvision", "ray", "mlflow", "pyarrow", "matplotlib")
SPACES = tuple(f"spaces.{name}" for name in space_names())


@pytest.mark.parametrize(
    ("modules", "heavy"), [(("trainables.config",), (*FRAMEWORKS, "optuna")), (SPACES, FRAMEWORKS)]
)
def test_configurations_load_no_training_framework(
    modules: tuple[str, ...], heavy: tuple[str, ...]
) -> None:
    code = (
        f"import importlib, sys\n[importlib.import_module(name) for name in {modules!r}]\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
