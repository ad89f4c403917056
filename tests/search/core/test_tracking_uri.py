"""Addresses of SQLite stores: any path comes back, for SQLAlchemy too."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from search.core.tracking_uri import (
    absolute_uri,
    check_tracking_uri,
    database_of,
    default_tracking_uri,
    sqlite_uri,
)

NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1
).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: Path("/", *names))


@given(PATHS)
def test_any_path_comes_back(path: Path) -> None:
    assert database_of(sqlite_uri(path)) == path
    assert make_url(sqlite_uri(path)).database == str(path)
    assert absolute_uri(sqlite_uri(path)) == sqlite_uri(path)


def test_usual_paths_stand_as_they_are() -> None:
    assert default_tracking_uri(Path("/data/ä b#c")) == "sqlite:////data/ä b#c/mlflow.db"


def test_a_relative_database_is_found_from_anywhere() -> None:
    here = os.getcwd()
    assert absolute_uri("sqlite:///mlflow.db") == f"sqlite:///{here}/mlflow.db"
    assert absolute_uri("sqlite:///x.db?timeout=9") == f"sqlite:///{here}/x.db?timeout=9"
    assert absolute_uri("http://127.0.0.1:5000") == "http://127.0.0.1:5000"


@pytest.mark.parametrize("uri", ["", "sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_store_keeps_its_content(uri: str) -> None:
    with pytest.raises(ValueError, match="--tracking-uri must name a store that keeps"):
        check_tracking_uri(uri, "--tracking-uri")


@pytest.mark.parametrize("uri", ["https://me:secret@host", "postgresql://me:secret@host/db"])
def test_a_password_is_not_kept(uri: str) -> None:
    with pytest.raises(ValueError, match="must hold no password") as caught:
        check_tracking_uri(uri, "MLFLOW_TRACKING_URI")
    assert "secret" not in str(caught.value)


def test_other_stores_have_no_database() -> None:
    assert database_of("postgresql://host/db") is None
