"""Folders and files may have any name that the system allows."""

import os
import shutil
from pathlib import Path

import pytest
from factories import make_config
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from search.core.config import StudyConfig
from search.core.objectives import MIOU_AND_SIZE
from search.run import make_parser
from search.storage.journal import open_journal, read_journal
from search.storage.study_file import StudyFile, read_study_file, write_study_file
from trainables.core.artifacts import ArtifactStore
from trainables.core.command_line import as_path
from trainables.core.flags import typed_values
from trainables.data.packed import open_pack, pack_dataset
from trainables.data.registry import open_source
from trainables.training.teacher import check_teacher

NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=40
).filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) < 200)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=NAMES)
@example(name="a?b%2Fc%d#e")
@example(name="~")
@example(name=" --x ")
@example(name="s3:")
def test_everything_lies_where_its_path_says(
    name: str, blocks_folder: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outer = tmp_path_factory.mktemp("outer")
    folder = outer / name
    shutil.copytree(blocks_folder, folder / "data")
    teacher = shutil.copy(teacher_file, folder / name)
    argv = ["--storage", str(folder), "--data", str(folder / "data"), f"--teacher={teacher}"]
    fields = typed_values(StudyConfig, make_parser().parse_args(argv))
    assert fields["storage"] == folder
    assert fields["data"] == str(folder / "data")
    assert fields["teacher"] == str(teacher)

    check_teacher(str(teacher), 5, (32, 32))
    source = open_source(str(folder / "data"), 32, folder)
    data = open_pack(pack_dataset(source, ArtifactStore(folder / "artifacts")).path)
    assert len(data.train) == 64

    config = make_config(folder, folder / "data")
    file = StudyFile(
        id="0", config=config, versions={}, data_digest=data.digest, class_names=data.class_names
    )
    write_study_file(file)
    open_journal(config.folder, config.name, MIOU_AND_SIZE).enqueue_trial({})
    assert read_study_file(config.folder).config == config
    assert len(read_journal(config.folder, config.name).trials) == 1
    assert list(outer.iterdir()) == [folder]


@given(NAMES)
def test_an_argument_is_the_path_that_it_says(name: str) -> None:
    assert as_path(f"/x/{name}") == Path("/x", name)
    assert as_path(f"./{name}") == Path(name)


def test_home_is_found_also_after_an_equals_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    argv = ["--storage=~/studies", "--data=~/data", "--teacher=~/teacher.pth"]
    fields = typed_values(StudyConfig, make_parser().parse_args(argv))
    assert fields["storage"] == Path("/home/me/studies")
    assert fields["data"] == "/home/me/data"
    assert fields["teacher"] == "/home/me/teacher.pth"
