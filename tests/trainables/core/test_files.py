"""Files that are replaced as a whole, or left as they were."""

import errno
from pathlib import Path

import pytest

from trainables.core.errors import DiskFull
from trainables.core.files import hash_file, hash_file_once, replace_file


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trials.parquet"
    replace_file(path, b"before")

    def fail(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("os.fsync", fail)
        with pytest.raises(DiskFull, match=r"must have room for trials\.parquet"):
            replace_file(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    replace_file(path, b"after")
    assert path.read_bytes() == b"after"


def test_a_file_is_hashed_again_only_after_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(b"before")
    read: list[Path] = []

    def count(path: Path) -> str:
        read.append(path)
        return hash_file(path)

    monkeypatch.setattr("trainables.core.files.hash_file", count)
    assert hash_file_once(path) == hash_file_once(path) == hash_file(path)
    assert read == [path]
    path.write_bytes(b"and after")
    assert hash_file_once(path) == hash_file(path)
    assert len(read) == 2
