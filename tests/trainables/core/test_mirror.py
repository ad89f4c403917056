"""What one machine writes into its mirror of a folder, another one finds in its own."""

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from object_store import ObjectStore

from trainables.core import mirror
from trainables.core.files import read_shared, replace_file, whole_folder
from trainables.core.mirror import (
    Remote,
    check_store,
    delete,
    delete_matching,
    download,
    download_folder,
    exists,
    is_mirrored,
    mirror_folder,
    mirror_of_shared,
    moved_to_cache,
    names_of,
    open_store,
    remote_of,
    shown,
)
from trainables.core.progress import ProgressFiles, progress_to_file

Mirrors = tuple[Path, Path]


def test_the_path_of_a_mirror_says_what_it_mirrors(tmp_path: Path) -> None:
    folder = mirror_folder("s3://bucket/some/prefix/", tmp_path)
    assert folder == tmp_path / "mirror-of-s3" / "bucket" / "some" / "prefix"
    assert shown(folder / "study.json") == "s3://bucket/some/prefix/study.json"
    assert shown(mirror_folder("gs://bucket", tmp_path)) == "gs://bucket"
    assert shown(mirror_of_shared(Path("/mnt/disk"), tmp_path)) == "/mnt/disk"
    assert shown(tmp_path) == str(tmp_path)
    assert is_mirrored(folder)
    assert not is_mirrored(tmp_path)
    other = tmp_path / "other"
    assert moved_to_cache(folder, other) == mirror_folder("s3://bucket/some/prefix", other)


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///x", "s3://b//x", "s3://b/../x", "http://b/x", "hdfs://b/x", "file:///x"]
)
def test_other_addresses_are_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a path, or one of s3://BUCKET/PREFIX, .* but"):
        mirror_folder(uri, tmp_path)


def test_a_path_that_mirrors_nothing_is_that_of_a_local_file(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "folder" / "file"
    replace_file(file, "1")
    download(file)
    download_folder(folder)
    delete_matching(folder, lambda name: True)
    check_store(folder)
    assert remote_of(file) is None
    assert exists(file)
    assert names_of(tmp_path) == ["folder"]
    delete(file)
    delete(file)  # which is not there any more
    delete(folder)
    assert not exists(folder)


def test_another_machine_finds_what_was_written(mirrors: Mirrors) -> None:
    here, there = mirrors
    replace_file(here / "study" / "file", "one")
    assert exists(there / "study" / "file")
    assert not (there / "study").exists()

    download(there / "study" / "file")
    assert (there / "study" / "file").read_text() == "one"
    replace_file(there / "study" / "file", "two, longer")
    download(here / "study" / "file")
    assert (here / "study" / "file").read_text() == "two, longer"

    delete(here / "study" / "file")
    assert not exists(here / "study" / "file")
    download(there / "study" / "file")
    assert not exists(there / "study" / "file")


def test_a_file_is_downloaded_only_if_it_has_changed(
    mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = mirrors
    replace_file(here / "file", "one")
    download(there / "file")
    with monkeypatch.context() as patch:
        patch.setattr(mirror, "copy_file", None)
        download(there / "file")
    replace_file(here / "file", "other")
    download(there / "file")
    assert (there / "file").read_text() == "other"


def test_a_folder_is_made_equal(mirrors: Mirrors) -> None:
    here, there = mirrors
    for name in ("a", "b/c", "b/d"):
        replace_file(here / name, name)
    download_folder(there)
    replace_file(here / "b" / "c", "changed")
    delete(here / "b" / "d")
    replace_file(here / "e", "e")
    (there / "own").write_text("is not in the object store")
    download_folder(there, lambda name: name != "a")

    found = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
    assert found == {"a", "b/c", "e"}
    assert (there / "b" / "c").read_text() == "changed"
    assert names_of(there) == ["b"]


def test_a_folder_is_there_as_a_whole_or_not_at_all(mirrors: Mirrors) -> None:
    """The file that was written last is also uploaded last: it says that the others are there."""
    here, there = mirrors
    here.mkdir(parents=True)
    uploaded: list[str] = []
    put = Remote.put

    def watched(self: Remote, source: Path) -> None:
        uploaded.append(self.key.split("/")[-1])
        put(self, source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Remote, "put", watched)
        with whole_folder(here / "whole") as aside:
            for name in ("z", "m", "a-record"):
                replace_file(aside / name, name)
                time.sleep(0.01)
        assert uploaded == ["z", "m", "a-record"]
        with suppress(RuntimeError), whole_folder(here / "half") as aside:
            (aside / "z").write_text("z")
            raise RuntimeError
    download_folder(there)
    assert sorted(path.name for path in there.rglob("*")) == ["a-record", "m", "whole", "z"]


def test_an_upload_that_fails_leaves_the_file_as_it_was(
    mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = mirrors
    replace_file(here / "file", "one")

    def refuse(self: Remote, source: Path) -> None:
        raise OSError("no answer")

    monkeypatch.setattr(Remote, "put", refuse)
    with pytest.raises(OSError, match="no answer"):
        replace_file(here / "file", "two")
    assert os.listdir(here) == ["file"]
    assert (here / "file").read_text() == "one"
    download(there / "file")
    assert (there / "file").read_text() == "one"


def test_hidden_files_of_a_killed_process_are_deleted_on_all_machines(mirrors: Mirrors) -> None:
    here, there = mirrors
    for name in (".stop", "trial/.progress", "kept"):
        replace_file(here / name, name)
    delete_matching(there, lambda name: Path(name).name.startswith("."))
    download_folder(here)
    assert [path.name for path in here.rglob("*") if path.is_file()] == ["kept"]


def test_the_progress_of_another_machine_is_seen(
    mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = mirrors
    monkeypatch.setattr("trainables.core.progress.REMOTE_CHECK_EVERY_S", 0.0)
    files = ProgressFiles(there / "checkpoints", "*/.progress")
    assert list(files.new_lines()) == []
    with progress_to_file(here / "checkpoints" / "0001" / ".progress"):
        replace_file(here / "checkpoints" / "0001" / ".progress", "epoch 1 of 3")
        deadline = time.monotonic() + 20
        while not (found := list(files.new_lines())):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ((path, line),) = found
        assert (path.parent.name, line) == ("0001", "epoch 1 of 3")
        assert list(files.new_lines()) == []
        assert files.is_alive
    assert list(files.new_lines()) == []
    assert files.bringing
    files.bringing.join()
    assert not exists(there / "checkpoints" / "0001" / ".progress")


def test_a_node_reads_what_the_driver_wrote(mirrors: Mirrors) -> None:
    here, there = mirrors
    replace_file(here / ".shared", "word")
    assert read_shared(there / ".shared", 5) == "word"
    delete(here / ".shared")
    assert read_shared(there / ".shared", 0) == "does not see what another has written there"


def test_a_bucket_that_is_not_there_is_named(object_store: ObjectStore, tmp_path: Path) -> None:
    check_store(mirror_folder(object_store.uri, tmp_path))
    assert object_store.uri.endswith("prefix")
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
        check_store(mirror_folder("s3://there-is-none-of-this-name/prefix", tmp_path))


def test_a_store_that_does_not_answer_has_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, object_store: ObjectStore
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(mirror, "NUM_ATTEMPTS", 1)
    monkeypatch.setattr(mirror, "open_store", open_store.__wrapped__)
    folder = mirror_folder(object_store.uri, tmp_path)
    assert not exists(folder / "file")
    with pytest.raises(OSError, match="connect"):
        replace_file(folder / "file", "1")
    assert not exists(folder / "file")
