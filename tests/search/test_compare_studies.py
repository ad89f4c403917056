"""Finished studies are compared by their names."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from search.compare import main

STORED = Path(__file__).parent / "study/stored_study/stored"


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage with the stored study under two names."""
    shutil.copytree(STORED, tmp_path / "stored")
    shutil.copytree(STORED, tmp_path / "again")
    for name in ("study.json", "journal.log"):
        file = tmp_path / "again" / name
        file.write_text(file.read_text().replace('"stored"', '"again"'))
    return tmp_path


def test_two_studies(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stored", "again", "--storage", str(storage)]) == 0
    printed = capsys.readouterr()
    for words in ("2 studies of the same data", "best mIoU % within 100 KB", "hypervolume"):
        assert words in printed.out
    assert printed.err == ""
    with Image.open(storage / "compared.png") as picture:
        assert picture.size == (1500, 900)
    assert '<a href="again/front.html">again</a>' in (storage / "compared.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["stored"], "at least two studies can be compared, but got stored alone"),
        (["stored", "stored"], "each study must be named once, but got stored stored"),
        (["stored", "none"], "NAME must name an existing study, but there is no"),
        (["stored", "again", "--seeds", "3"], "which leaves no use for --seeds, but got it beside"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], problem: str, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--storage", str(storage)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
    assert not (storage / "compared.png").exists()
