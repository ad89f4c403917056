"""What counts as the first line and as the first training step of a search."""

import os
from pathlib import Path

import pytest

from benchmarks.first_seconds import Seconds, first_seconds, table

SEARCH = """
import sys, time
print("a warning", file=sys.stderr, flush=True)
time.sleep(0.5)
from pathlib import Path
print("one")
sys.stdout.flush()
time.sleep(0.5)
print("two")
folder = Path(sys.argv[sys.argv.index("--storage") + 1], "artifacts/.student-ab-checkpoints")
folder.mkdir(parents=True)
time.sleep(0.5)
(folder / "00000001.ckpt").touch()
time.sleep(5)
"""


def make_checkout(folder: Path, search: str) -> Path:
    """A project whose search is another program."""
    (folder / "search").mkdir()
    (folder / "search" / "__init__.py").touch()
    (folder / "search" / "run.py").write_text(search)
    return folder


def test_a_search_is_timed_to_its_first_line_and_its_first_checkpoint(tmp_path: Path) -> None:
    checkout, storage = make_checkout(tmp_path, SEARCH), tmp_path / "studies"
    (storage / "artifacts").mkdir(parents=True)
    earlier = storage / "artifacts/00000009.ckpt"
    earlier.touch()
    os.utime(earlier, (0, 0))
    first_line, first_step = first_seconds(checkout, storage, ["--name", "any"])
    assert first_line > 0.5
    assert 0.9 < first_step - first_line < 10


def test_a_search_that_ends_before_is_an_error(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path, "raise SystemExit('no data')")
    with pytest.raises(RuntimeError, match="took no step: no data"):
        first_seconds(checkout, tmp_path / "studies", [])


def test_medians_stand_beside_ranges() -> None:
    text = table({"before": [Seconds(1, 4, 7, 1), Seconds(3, 9, 7, 2), Seconds(2, 5, 7, 3)]})
    assert text.splitlines()[-1] == (
        "| before | 2.0 (1.0 to 3.0) | 5.0 (4.0 to 9.0) | 7.0 (7.0 to 7.0) | 2.0 (1.0 to 3.0) |"
    )
