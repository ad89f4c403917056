"""Artifacts are built once, and completely or not at all."""

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainables.core.artifact_record import find_damage
from trainables.core.artifacts import ArtifactStore, NotBuilt, locked, only_found
from trainables.core.progress import progress_to


def test_same_key_same_artifact(tmp_path: Path) -> None:
    store, built = ArtifactStore(tmp_path), []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "value").write_text("1")

    first = store.get("thing", {"a": 1, "b": [2]}, build)
    again = store.get("thing", {"b": [2], "a": 1}, build)
    other = store.get("thing", {"a": 2}, build)
    assert first == again
    assert other.path != first.path
    assert len(built) == 2
    assert first.seconds > 0
    assert json.loads((first.path / "artifact.json").read_text())["key"] == {"a": 1, "b": [2]}


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        store.get("thing", {}, fail)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    assert store.get("thing", {}, lambda folder: None).path.is_dir()


def test_several_askers_share_one_build(tmp_path: Path) -> None:
    built: list[int] = []
    together = threading.Barrier(8)

    def build(folder: Path) -> None:
        built.append(1)
        time.sleep(0.2)  # meanwhile all others have looked for it in vain

    def ask() -> None:
        together.wait()
        ArtifactStore(tmp_path).get("thing", {}, build)

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert built == [1]


def test_who_waits_for_another_build_is_told_for_which(tmp_path: Path) -> None:
    store, lines = ArtifactStore(tmp_path), list[str]()
    path = store.path("thing", {})
    building, asked = threading.Event(), threading.Event()

    def build(folder: Path) -> None:
        building.set()
        assert asked.wait(10)

    other = threading.Thread(target=lambda: store.get("thing", {}, build))
    other.start()
    assert building.wait(10)

    def say(line: str) -> None:
        lines.append(line)
        asked.set()

    with progress_to(say):
        assert store.get("thing", {}, lambda folder: None).path == path
        store.get("other", {}, lambda folder: None)
    other.join()
    assert lines == [f"waiting for {path.name}, which another process builds"]


def test_who_does_not_wait_says_nothing(tmp_path: Path) -> None:
    store, lines = ArtifactStore(tmp_path), list[str]()
    with progress_to(lines.append), locked(store.path("thing", {})), pytest.raises(NotBuilt):
        store.get("thing", {}, lambda folder: None, while_waiting=None)
    assert lines == []


def write_content(folder: Path) -> None:
    (folder / "part").mkdir()
    (folder / "part" / "value").write_text("whole content")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (lambda path: (path / "part/value").unlink(), "value is missing"),
    "cut off": (lambda path: os.truncate(path / "part/value", 5), "has 5 bytes instead of 13"),
    "changed": (lambda path: (path / "part/value").write_text("whole Content"), "has changed"),
    "no record": (lambda path: (path / "artifact.json").unlink(), "no readable artifact.json"),
    "half a record": (lambda path: (path / "artifact.json").write_text("{"), "no readable"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_artifact_is_named_and_built_again(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = ArtifactStore(tmp_path)
    path = store.get("thing", {}, write_content).path
    harm, message = DAMAGE[case]
    harm(path)
    assert message in (find_damage(path) or "")
    assert store.find("thing", {}) is None
    assert store.get("thing", {}, write_content).path == path
    assert find_damage(path) is None
    (said,) = caplog.messages
    assert message in said


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    name = store.path("thing", {}).name
    half = tmp_path / f".{name}-abc123"
    half.mkdir()
    (half / "value").write_text("ha")
    assert store.find("thing", {}) is None
    store.get("thing", {}, write_content)
    assert not half.exists()


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise OSError(errno.ENOSPC, "No space left on device")

    store = ArtifactStore(tmp_path)
    with pytest.raises(OSError, match=r"must have room for thing-\w+, but it is full") as caught:
        store.get("thing", {}, fill)
    assert "\n" not in str(caught.value)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_what_is_there_is_found_where_nothing_may_be_built(tmp_path: Path) -> None:
    store, key = ArtifactStore(tmp_path / "artifacts"), {"a": 1}
    with only_found(), pytest.raises(NotBuilt):
        store.get("thing", key, lambda folder: None)
    assert not store.root.exists()
    built = store.get("thing", key, lambda folder: None)
    with only_found():
        assert store.get("thing", key, lambda folder: None) == built
