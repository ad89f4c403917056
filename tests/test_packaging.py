"""The files of the package agree: its version, constraints.txt and the hooks for commits."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import search

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
]


def direct_dependencies() -> list[Requirement]:
    """What pyproject.toml names, in all extras and groups, besides the project itself."""
    project = PROJECT["project"]
    named = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
        *(each for group in ("dev", "cluster") for each in PROJECT["dependency-groups"][group]),
    ]
    return [each for each in map(Requirement, named) if each.name != project["name"]]


def test_the_version_is_stated_once() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "search/__init__.py"
    assert version("paretoseg") == search.__version__


def test_a_change_of_the_version_rebuilds_an_editable_installation() -> None:
    assert {"file": "search/__init__.py"} in PROJECT["tool"]["uv"]["cache-keys"]


@pytest.mark.parametrize("dependency", direct_dependencies(), ids=str)
def test_constraints_name_a_version_of_each_dependency(dependency: Requirement) -> None:
    found = [
        each
        for each in CONSTRAINTS
        if canonicalize_name(each.name) == canonicalize_name(dependency.name)
        and (each.marker is None or each.marker.evaluate())
    ]
    assert len(found) == 1
    (pin,) = found[0].specifier
    assert pin.operator == "=="
    assert dependency.specifier.contains(pin.version)


def test_constraints_are_names_and_versions_alone() -> None:
    for constraint in CONSTRAINTS:
        assert constraint.url is None
        assert re.fullmatch(
            r"==[\w.]+", str(constraint.specifier)
        )  # no local version, such as +cpu
    assert "--" not in (ROOT / "constraints.txt").read_text()


def test_hooks_are_local_and_run_what_ci_runs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    ci = (ROOT / ".ci/run").read_text()
    for hook in hooks.values():
        assert hook["language"] in ("system", "fail")
        if hook["language"] == "system":
            command = hook["entry"].removeprefix("uv run --no-sync ")
            assert f"uv run {command}" in ci


@pytest.mark.parametrize(
    ("path", "is_generated"),
    [
        ("studies/qkd-shapes/study.json", True),
        ("search/__pycache__/run.cpython-311.pyc", True),
        ("uv.lock", True),
        ("exported/model.onnx", True),
        ("search/study/study.py", False),
        ("tests/search/study/stored_study/teacher.safetensors", False),
        ("docs/figures/overlay.png", False),
    ],
)
def test_generated_files_are_refused(path: str, is_generated: bool) -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (hook,) = [h for repo in config["repos"] for h in repo["hooks"] if h["language"] == "fail"]
    assert (re.search(hook["files"], path) is not None) == is_generated
