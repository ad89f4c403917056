"""What `search.run` says of itself."""

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
