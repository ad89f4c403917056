"""The command that lists, verifies and deletes artifacts."""

from pathlib import Path

import pytest
from filelock import FileLock

from trainables.cache import main
from trainables.config import TrialConfig
from trainables.core.artifacts import ArtifactStore, lock_file
from trainables.recipes.configs import Supervised


def build(folder: Path) -> None:
    (folder / "value").write_bytes(b"x" * 2500)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(tmp_path / "artifacts")
    config = TrialConfig(recipe=Supervised()).model_dump(mode="json")
    store.get("data", {"source": "here"}, build)
    store.get("outputs", {"form": "maps"}, build)
    store.get("student", {"config": config}, build)
    (store.root / ".teacher-0123-abc").mkdir()
    (store.root / "voc").mkdir()  # a download, no artifact
    return store


def call(store: ArtifactStore, *argv: str) -> int:
    return main([*argv, "--artifacts", str(store.root)])


def test_all_are_listed_with_their_sizes(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(store, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    for line, words in zip(
        lines[1:],
        ("unfinished", "packed data set", "outputs, maps", "supervised", "4 artifacts, 8"),
        strict=True,
    ):
        assert words in line


def test_damage_is_found(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(store, "verify") == 0
    path = store.path("data", {"source": "here"})
    (path / "value").write_bytes(b"y" * 2500)
    assert call(store, "verify", path.name) == 1
    assert f"{path.name}: value has changed since it was written" in capsys.readouterr().out


def test_named_ones_are_deleted(store: ArtifactStore) -> None:
    path = store.path("data", {"source": "here"})
    assert call(store, "delete", path.name, ".teacher-0123-abc") == 0
    assert not path.exists()
    assert not (store.root / ".teacher-0123-abc").exists()
    assert store.path("outputs", {"form": "maps"}).exists()


def test_bad_input_is_one_line_and_status_2(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store.path("data", {"source": "here"})
    assert call(store, "delete") == 2
    assert call(store, "delete", "data-0") == 2
    assert main(["list", "--artifacts", str(store.root / "none")]) == 2
    with FileLock(lock_file(path)):
        assert call(store, "delete", path.name) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert all(line.startswith("error: ") for line in said)
    assert path.exists()


@pytest.mark.parametrize("kind", ["latency", "sensitivity"])
def test_every_kind_is_listed(
    kind: str, store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    name = store.get(kind, {}, build).path.name
    assert call(store, "list") == 0
    assert f"{kind} of a student" in next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith(name)
    )
