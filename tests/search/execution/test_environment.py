"""Defaults that a process sets where its environment lacks them."""

import os
import re
import stat
from pathlib import Path

import pytest

from search.execution import environment
from search.execution.environment import LONGEST_FOLDER, prepare_environment


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes what a test, and `prepare_environment`, does to the environment."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        os.environ.pop(name, None)
    os.environ.pop("MPLCONFIGDIR", None)


def test_a_home_that_cannot_be_written_is_not_needed() -> None:
    os.environ["HOME"] = "/dev/null"
    prepare_environment()
    assert re.fullmatch("[0-9a-f]{64}", os.environ["RAY_AUTH_TOKEN"])
    assert os.environ["RAY_AUTH_MODE"] == "token"
    folder = Path(os.environ["MPLCONFIGDIR"])
    assert folder.is_dir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_each_process_has_another_token() -> None:
    os.environ["HOME"] = "/dev/null"
    prepare_environment()
    first = os.environ.pop("RAY_AUTH_TOKEN")
    prepare_environment()
    assert os.environ["RAY_AUTH_TOKEN"] != first


def test_what_the_user_has_is_left_alone(tmp_path: Path) -> None:
    os.environ |= {"HOME": str(tmp_path)}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("secret")
    prepare_environment()
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert "MPLCONFIGDIR" not in os.environ


def test_a_cluster_needs_the_user_s_own_token() -> None:
    os.environ |= {"HOME": "/dev/null", "RAY_ADDRESS": "10.0.0.1:6379"}
    prepare_environment()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_an_empty_address_is_none() -> None:
    os.environ["RAY_ADDRESS"] = ""
    prepare_environment()
    assert "RAY_ADDRESS" not in os.environ


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(environment.pwd, "getpwuid", unknown)
    os.environ.pop("USER", None)
    prepare_environment()
    assert os.environ["USER"] == str(os.getuid())


def test_sockets_lie_where_their_paths_are_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * LONGEST_FOLDER)
    monkeypatch.setattr(environment.tempfile, "gettempdir", lambda: str(long))
    prepare_environment()
    assert os.environ["RAY_TMPDIR"] == "/tmp"
    os.environ["RAY_TMPDIR"] = str(long)
    with pytest.raises(ValueError, match=r"at most 40 bytes, but got .*xxx: set RAY_TMPDIR"):
        prepare_environment()


def test_a_temporary_folder_that_cannot_be_written_is_named() -> None:
    os.environ["RAY_TMPDIR"] = "/dev/null/x"
    with pytest.raises(ValueError, match=r"can be written .* but got /dev/null/x"):
        prepare_environment()
