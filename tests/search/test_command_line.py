"""The help of `search.run`, and output into a closed pipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.run import main

HELP = Path(__file__).with_name("run_help.txt")
"""The help of `search.run` on a terminal of 100 columns."""


def test_help_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as leave:
        main(["--help"])
    assert leave.value.code == 0
    assert capsys.readouterr().out == HELP.read_text()


@pytest.mark.parametrize("flag", ["--help", "--list-spaces"])
def test_a_reader_may_leave(flag: str) -> None:
    """As `head -1` does, here before anything was written."""
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "search.run", flag]
    try:
        done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
