"""Exports of a study through the command line."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from search import export


def answer(capsys: pytest.CaptureFixture[str], status: int, *argv: object) -> str:
    """Exports, and gives what was printed: on stderr one line, where that fails."""
    assert export.main([str(arg) for arg in argv]) == status
    printed = capsys.readouterr()
    if status:
        (line,) = printed.err.splitlines()
        assert line.startswith("error: ")
        return line
    return printed.out


def front_of(study: Path) -> dict[str, dict[str, Any]]:
    """The rows of a study's front by trial."""
    rows = pq.read_table(study / "front.parquet").to_pylist()
    return {row["trial_id"]: row for row in rows}
