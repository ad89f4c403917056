"""Artifacts are built once, whole or not at all."""

import json
import threading
from pathlib import Path

import pytest

from trainables.artifacts import ArtifactStore


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

    def build(folder: Path) -> None:
        built.append(1)

    askers = [
        threading.Thread(target=ArtifactStore(tmp_path).get, args=("thing", {}, build))
        for _ in range(8)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert built == [1]
