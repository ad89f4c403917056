"""The journal of a study in an object store is that of its driver, also on another machine."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from drivers import wait_until
from object_store import ObjectStore

from search.core.objectives import MIOU_AND_SIZE
from search.storage import segments
from search.storage.journal import open_journal, read_journal
from search.storage.layout import JOURNAL, SEGMENTS
from search.storage.mirrored_studies import download_studies, download_study, upload_log
from search.storage.segments import (
    begin_upload,
    download_journal,
    flush_journal,
    put_segment,
    read_segments,
    segment_name,
)
from trainables.core.files import replace_file
from trainables.core.mirror import Remote, exists, mirror_folder, remote_of

Folders = tuple[Path, Path]
pytestmark = pytest.mark.slow  # some of them wait for seconds


@pytest.fixture
def folders(object_store: ObjectStore, tmp_path: Path) -> Iterator[Folders]:
    """The folder of a study on two machines."""
    uri = f"{object_store.uri}/{uuid.uuid4().hex[:8]}/study"
    yield mirror_folder(uri, tmp_path / "first"), mirror_folder(uri, tmp_path / "second")
    segments.uploads.clear()


def segments_of(folder: Path) -> Remote:
    remote = remote_of(folder)
    assert remote
    return remote.child(SEGMENTS)


def begin(folder: Path) -> optuna.Study:
    folder.mkdir(parents=True, exist_ok=True)
    download_journal(folder)
    return open_journal(folder, "study", MIOU_AND_SIZE)


def num_trials(folder: Path) -> int:
    return len(read_journal(folder, "study").get_trials(deepcopy=False))


def test_another_machine_goes_on_where_the_first_was_lost(folders: Folders) -> None:
    here, there = folders
    study = begin(here)
    for _ in range(5):
        study.ask().set_user_attr("kept", 1)
    flush_journal(here)
    segments.uploads.clear()  # as if the process were gone

    again = begin(there)
    assert list(segments_of(there).files()) == [segment_name(0)]  # those of the first driver
    assert [trial.user_attrs for trial in again.get_trials()] == [{"kept": 1}] * 5
    again.ask()
    flush_journal(there)
    segments.uploads.clear()
    begin(here)
    assert num_trials(here) == 6


def test_what_a_killed_driver_did_not_upload_is_uploaded_by_the_next_here(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = folders
    begin(here).ask()
    flush_journal(here)
    segments.uploads.clear()
    read_journal(here, "study").ask()  # by a driver that is gone
    download_journal(there)
    assert num_trials(there) == 1

    begin(here)
    flush_journal(here)
    download_journal(there)
    assert num_trials(there) == 2


def test_a_machine_that_comes_back_takes_what_another_has_gone_on_with(folders: Folders) -> None:
    here, there = folders
    begin(here).ask()
    flush_journal(here)
    segments.uploads.clear()
    begin(there).ask().set_user_attr("by", "the second")
    flush_journal(there)
    segments.uploads.clear()
    read_journal(here, "study").ask()
    read_journal(here, "study").ask()
    assert num_trials(here) == 3
    begin(here)
    trials = read_journal(here, "study").get_trials()
    assert [trial.user_attrs for trial in trials] == [{}, {"by": "the second"}]


def test_a_driver_killed_while_it_joins_segments_leaves_a_whole_journal(folders: Folders) -> None:
    here, there = folders
    remote = segments_of(here)
    for start, content in ((0, b"ab\n"), (3, b"cd\n"), (6, b"ef\n")):
        put_segment(remote, start, content)
    assert read_segments(remote) == b"ab\ncd\nef\n"
    put_segment(remote, 0, b"ab\ncd\nef\n")
    assert read_segments(remote) == b"ab\ncd\nef\n"
    remote.child(segment_name(3)).delete()
    assert read_segments(remote) == b"ab\ncd\nef\n"
    remote.child(segment_name(0)).delete()
    with pytest.raises(ValueError, match=r"must follow one another, but after 0 bytes comes .*6"):
        download_journal(there)


def test_the_search_does_not_wait_for_uploads_but_who_must_know_does(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = folders
    monkeypatch.setattr(segments, "RETRY_S", 0.1)
    monkeypatch.setattr(segments, "FLUSH_S", 1.0)
    study = begin(here)
    flush_journal(here)
    with monkeypatch.context() as patch:

        def refuse(*given: object) -> None:
            raise OSError("no answer")

        patch.setattr(segments, "put_segment", refuse)
        begun = time.monotonic()
        study.ask()
        assert time.monotonic() - begun < 1
        with pytest.raises(OSError, match=r"s3://.*/journal.log must be uploaded .*no answer"):
            flush_journal(here)
    flush_journal(here)
    download_journal(there)
    assert num_trials(there) == 1


def test_local_studies_have_no_segments(tmp_path: Path) -> None:
    begin(tmp_path).ask()
    begin_upload(tmp_path)
    flush_journal(tmp_path)
    upload_log(tmp_path)
    download_studies(tmp_path, lambda name: True)
    assert not segments.uploads
    assert (tmp_path / JOURNAL).is_file()


def test_studies_are_brought_and_those_deleted_elsewhere_go(folders: Folders) -> None:
    here, there = folders
    for name in ("study.json", "models/0001/model", "checkpoints/0001/1.ckpt", ".hidden"):
        replace_file(here / name, name)
    replace_file(here.parent / "artifacts" / "big" / "file", "big")
    begin(here).ask()
    flush_journal(here)
    (here / "log.txt").write_text("log")
    upload_log(here)
    download_studies(there.parent, lambda name: True)
    found = {str(p.relative_to(there.parent)) for p in there.parent.rglob("*") if p.is_file()}
    names = ("study.json", "models/0001/model", "log.txt", JOURNAL)
    assert found == {f"study/{name}" for name in names}

    (there / "log.txt").write_text("log of this machine")
    (there.parent / "mlflow.db").write_text("of this machine alone")
    remote = remote_of(here / "models")
    assert remote
    remote.delete()
    download_study(there)
    assert not exists(there / "models" / "0001" / "model")
    assert (there / "log.txt").read_text() == "log of this machine"
    assert num_trials(there) == 1

    study = remote_of(here)
    assert study
    study.delete()
    download_studies(there.parent, lambda name: True)
    assert not there.exists()
    assert (there.parent / "mlflow.db").is_file()


def test_a_driver_begins_with_the_journal_as_it_is_when_it_has_the_lock(folders: Folders) -> None:
    """Another may have gone on since this one has looked at the study."""
    here, there = folders
    first = begin(here)
    first.ask()
    flush_journal(here)
    download_journal(there)
    first.ask()
    flush_journal(here)
    segments.uploads.clear()
    study = open_journal(there, "study", MIOU_AND_SIZE)
    study.ask()
    flush_journal(there)
    segments.uploads.clear()
    download_journal(here)
    assert num_trials(here) == 3


def test_segments_are_made_one_from_time_to_time(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = folders
    monkeypatch.setattr(segments, "MERGED", 4)
    study = begin(here)
    for _ in range(12):
        study.ask()
        flush_journal(here)
    wait_until(lambda: len(segments_of(here).files()) < 8)
    download_journal(there)
    assert num_trials(there) == 12


def test_a_reader_does_not_disturb_the_driver_of_the_same_machine(folders: Folders) -> None:
    here, _ = folders
    replace_file(here / "study.json", "{}")
    begin(here).ask()
    lock = here / f"{JOURNAL}.lock"
    lock.symlink_to(here / JOURNAL)  # as Optuna makes it
    download_study(here)
    assert lock.is_symlink()
