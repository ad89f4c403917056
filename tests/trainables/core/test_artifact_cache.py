"""Each machine has a copy of the artifacts that it uses, of which one machine builds each once."""

import os
import shutil
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from trainables.core import artifact_cache
from trainables.core.artifact_cache import fetch
from trainables.core.artifact_record import RECORD, find_damage
from trainables.core.artifacts import ArtifactStore, check_artifact, checkpoint_folder, present
from trainables.core.errors import DiskFull
from trainables.core.files import replace_file
from trainables.core.mirror import Remote, download, remote_of
from trainables.training.checkpoints import Checkpoints

Mirrors = tuple[Path, Path]
Usage = namedtuple("Usage", "total used free")


def build(folder: Path) -> None:
    (folder / "value").write_text("1")


def never(folder: Path) -> None:
    pytest.fail("it is built already")


def test_another_machine_copies_what_one_has_built(mirrors: Mirrors) -> None:
    here, there = (ArtifactStore(folder / "artifacts") for folder in mirrors)
    assert here.find("thing", {}) is None
    built = here.get("thing", {}, build)
    assert there.get("thing", {}, never).seconds == built.seconds
    found = there.find("thing", {})
    assert found
    assert (found.path / "value").read_text() == "1"
    assert found.path.is_relative_to(there.root)


def test_a_file_that_another_machine_names_is_copied(mirrors: Mirrors) -> None:
    here, there = (ArtifactStore(folder / "artifacts") for folder in mirrors)
    here.get("thing", {"format": 1}, build)
    path = there.path("thing", {"format": 1})
    check_artifact(path, "thing", 1)
    shutil.rmtree(path)
    assert present(path / "value").read_text() == "1"


def test_machines_that_want_it_at_once_share_one_build(mirrors: Mirrors) -> None:
    built: list[Path] = []

    def slow(folder: Path) -> None:
        built.append(folder)
        time.sleep(0.5)
        build(folder)

    stores = [ArtifactStore(folder / "artifacts") for folder in mirrors for _ in range(2)]
    askers = [threading.Thread(target=store.get, args=("thing", {}, slow)) for store in stores]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(built) == 1
    assert all(store.find("thing", {}) for store in stores)


def test_a_damaged_copy_is_copied_again_and_a_damaged_original_built_again(
    mirrors: Mirrors,
) -> None:
    here, there = (ArtifactStore(folder / "artifacts") for folder in mirrors)
    path = here.get("thing", {}, build).path
    (path / "value").write_text("2")
    assert here.get("thing", {}, never).path == path
    assert (path / "value").read_text() == "1"

    remote = remote_of(path / "value")
    assert remote
    (path / "value").write_text("3")
    remote.put(path / "value")
    rebuilt: list[Path] = []

    def again(folder: Path) -> None:
        rebuilt.append(folder)
        build(folder)

    assert find_damage(there.get("thing", {}, again).path) is None
    assert len(rebuilt) == 1
    here.get("thing", {}, never)


def test_a_build_that_is_killed_goes_on_elsewhere(mirrors: Mirrors) -> None:
    here, there = (checkpoint_folder(folder / "artifacts" / "student-1") for folder in mirrors)
    for number in range(4):
        Checkpoints(here, "key").save({"step": torch.tensor(number)})
    state = Checkpoints(there, "key").load()
    assert state
    assert int(state["step"]) == 3
    assert len(os.listdir(there)) == 2

    Checkpoints(there, "key").save({"step": torch.tensor(9)})
    Checkpoints(here, "key").save({"step": torch.tensor(5)})  # has not seen what the other wrote
    Checkpoints(there, "key").clear()
    assert Checkpoints(here, "key").load() is None


def test_copies_that_were_not_used_for_long_make_room(
    mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (ArtifactStore(folder / "artifacts") for folder in mirrors)
    for number in range(4):
        here.get("thing", {"number": number}, build)
    paths = [there.path("thing", {"number": number}) for number in range(4)]
    for age, path in zip((900, 2000, 100), paths, strict=False):
        assert fetch(path)
        os.utime(path / RECORD, (time.time() - age, time.time() - age))

    def usage(folder: Path) -> Usage:
        full = sum(path.exists() for path in paths)
        return Usage(0, 0, artifact_cache.SPARE_BYTES + (0 if full > 1 else 1))

    monkeypatch.setattr(artifact_cache.shutil, "disk_usage", usage)
    assert fetch(paths[3])
    assert [path.exists() for path in paths] == [False, False, True, True]

    full = Usage(0, 0, artifact_cache.SPARE_BYTES)
    monkeypatch.setattr(artifact_cache.shutil, "disk_usage", lambda folder: full)
    with pytest.raises(DiskFull, match=r"must have room for a copy of thing-\w+, .* MB, but it"):
        fetch(paths[0])
    assert [path.exists() for path in paths] == [False, False, True, True]


def test_a_copy_that_breaks_off_is_none(mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = (ArtifactStore(folder / "artifacts") for folder in mirrors)
    here.get("thing", {}, build)

    def break_off(folder: Path) -> None:
        download(folder / RECORD)
        raise OSError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(artifact_cache, "download_folder", break_off)
        with pytest.raises(OSError, match="no answer"):
            there.find("thing", {})
    found = there.find("thing", {})
    assert found
    assert find_damage(found.path) is None


def test_what_was_deleted_in_the_storage_is_brought_back_and_what_was_built_anew_is_taken(
    mirrors: Mirrors,
) -> None:
    """Otherwise other machines would lack it, or have another one."""
    here, there = (ArtifactStore(folder / "artifacts") for folder in mirrors)
    path = here.get("thing", {}, build).path
    remote = remote_of(path)
    assert remote
    remote.delete()
    assert here.find("thing", {})
    found = there.find("thing", {})
    assert found

    remote.delete()
    shutil.rmtree(path)
    here.get("thing", {}, lambda folder: replace_file(folder / "value", "other"))
    again = there.find("thing", {})
    assert again
    assert (again.path / "value").read_text() == "other"


def test_what_is_no_artifact_is_left_alone(mirrors: Mirrors) -> None:
    here, _ = mirrors
    replace_file(here / "study" / "models" / "0001" / "model", "1")
    shutil.rmtree(here / "study" / "models" / "0001", ignore_errors=False)
    replace_file(here / "study" / "models" / "0001" / "model", "2")
    assert present(here / "study" / "models" / "0001" / "model").read_text() == "2"


def test_a_store_that_does_not_answer_leaves_the_copy(
    mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (ArtifactStore(folder / "artifacts") for folder in mirrors)
    here.get("thing", {}, build)

    def no_answer(artifact: Remote) -> None:
        raise OSError("no answer")

    monkeypatch.setattr(artifact_cache, "read_remote_record", no_answer)
    assert here.find("thing", {})
    with pytest.raises(OSError, match="no answer"):
        there.find("thing", {})


def test_a_build_that_cannot_be_uploaded_is_none(
    mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = (ArtifactStore(folder / "artifacts") for folder in mirrors)

    def refuse(self: Remote, source: Path) -> None:
        raise OSError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "put", refuse)
        with pytest.raises(OSError, match="no answer"):
            here.get("thing", {}, build)
    assert here.find("thing", {}) is None
    here.get("thing", {}, build)
