"""Tests stand where the code does that they test."""

from pathlib import Path

TESTS = Path(__file__).parent


def test_each_folder_of_tests_is_one_of_the_source_tree() -> None:
    files = [path for package in ("search", "trainables") for path in files_of(package)]
    assert files
    for path in files:
        folder = TESTS.parent / path.parent
        assert (folder / "__init__.py").is_file(), f"{folder} is no package, for tests/{path}"


def files_of(package: str) -> list[Path]:
    """The test files of a package, by their paths below the folder of tests."""
    return [path.relative_to(TESTS) for path in (TESTS / package).rglob("test_*.py")]
