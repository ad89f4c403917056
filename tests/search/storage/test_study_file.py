"""study.json, also of studies from before some field was there."""

import json
from pathlib import Path

import pytest
from factories import make_config

from search.core.config import StudyConfig
from search.storage.study_file import BEFORE_ITS_FIELD, StudyFile, read_study_file, write_study_file
from trainables.core.flags import default_values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = make_config(tmp_path, "shapes", scheduler="halving")
    write_study_file(
        StudyFile(id="0", config=config, versions={}, data_digest="0", class_names=("a", "b"))
    )
    return config.folder


def test_a_study_file_is_read_as_it_was_written(folder: Path) -> None:
    assert read_study_file(folder).config.scheduler == "halving"


def test_an_earlier_study_goes_on_as_it_began(folder: Path) -> None:
    path = folder / "study.json"
    content = json.loads(path.read_text())
    for field in BEFORE_ITS_FIELD:
        del content["config"][field]
    path.write_text(json.dumps(content))
    assert read_study_file(folder).config.scheduler == "none"


def test_only_what_differs_from_the_default_is_listed() -> None:
    defaults = default_values(StudyConfig)
    assert all(defaults[field] != value for field, value in BEFORE_ITS_FIELD.items())
