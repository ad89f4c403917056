"""What the documentation names is there: files, links, commands and flags."""

import importlib
import re
from pathlib import Path

import pytest

import search
from spaces import space_names

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/comparisons.md",
    "docs/reliability.md",
)
"""Whose paths are those of today."""
COMMANDS = (
    "search.run",
    "search.check",
    "search.cluster",
    "search.compare",
    "search.export",
    "search.predict",
    "search.server",
    "search.status",
    "search.ui",
    "trainables.train",
    "trainables.cache",
    "trainables.convert",
)
OF_OTHERS = {"--with", "--constraints", "--editable", "--no-sync"}
"""Flags of uv."""
OF_SERVING = {"--env-manager", "--model-uri", "--data-binary"}
"""Flags of MLflow and of curl."""


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text()


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        importlib.import_module(command).main(["--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    folders = "search|trainables|spaces|tests|docs|examples|benchmarks"
    paths = set(re.findall(rf"\b(?:{folders})/[\w/.-]*\w\.(?:py|md|json|png)\b", text))
    assert {p for p in paths if "NAME" not in p and not (ROOT / p).exists()} == set()


@pytest.mark.parametrize("page", [path.name for path in ROOT.glob("*.md")])
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text())
    local = {target for target in targets if "://" not in target}
    assert {target for target in local if not (ROOT / target).exists()} == set()


def test_flags_of_the_readme_are_those_of_the_commands(
    readme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {flag for name in COMMANDS for flag in flags_in(help_of(name, capsys))}
    assert flags_in(readme) - known <= OF_OTHERS | OF_SERVING


def test_each_command_line_of_the_readme_has_flags_of_its_command(
    readme: str, capsys: pytest.CaptureFixture[str]
) -> None:
    joined = readme.replace("\\\n", " ")
    lines = re.findall(r"python -m ((?:search|trainables)\.\w+)([^\n`]*)", joined)
    assert {command for command, _ in lines} >= set(COMMANDS)
    texts = {command: help_of(command, capsys) for command, _ in lines}
    for command, arguments in lines:
        assert flags_in(arguments) <= flags_in(texts[command]), command


def flags_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text))


def test_the_readme_lists_the_spaces(readme: str) -> None:
    section = readme[readme.index("## Spaces") : readme.index("## How it searches")]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(space_names())


def test_the_changelog_has_a_section_for_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(
        rf"^## {re.escape(search.__version__)} - \d{{4}}-\d\d-\d\d$", text, re.MULTILINE
    )
