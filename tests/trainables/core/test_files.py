"""Files that are replaced as a whole, or left as they were."""

import errno
from pathlib import Path

import pytest

from trainables.core.errors import DiskFull
from trainables.core.files import replace_file


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
