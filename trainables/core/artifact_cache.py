"""Copies of artifacts on this machine, where the storage is an object store or a shared folder."""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from trainables.core.artifact_record import (
    RECORD,
    ArtifactRecord,
    find_damage,
    read_artifact_record,
)
from trainables.core.errors import DiskFull
from trainables.core.mirror import (
    MIRROR,
    Remote,
    cache_of,
    download_folder,
    remote_of,
    shown,
    upload,
)
from trainables.core.progress import announce

SPARE_BYTES = 500_000_000
"""What remains free of a cache's disk."""
NUM_DOWNLOADS = 2
"""Downloads whose digests must be wrong until the original is taken to be damaged."""
IN_USE_S = 600.0
"""Seconds after its last use within which a copy is not deleted: a process may be opening it."""


def fetch(path: Path, deep: bool = True) -> bool:
    """Whether an artifact of a mirror is whole on this machine afterwards.

    If it is not, it is copied from the object store, by one process for all of this machine, and
    its digests are compared; unless `deep`, those of an earlier copy are not. Copies that were not
    used for long make room for it.

    Raises:
        DiskFull: the copies in use leave no room.
        OSError: the object store does not answer.
    """
    remote = remote_of(path)
    assert remote is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(fetch_lock(path)):
        is_whole = path.is_dir() and find_damage(path, deep) is None
        try:
            record = read_remote_record(remote)
        except OSError:
            if is_whole:
                return True
            raise
        if record is None:
            if is_whole:  # it was deleted there: other machines need it
                upload(path, path)
            return is_whole
        if not (is_whole and read_artifact_record(path) == record):
            num_bytes = sum(length for length, _ in record.files.values())
            announce(f"copying {shown(path)} to this machine, {num_bytes / 1e6:.1f} MB")
            is_whole = any(download_whole(path, num_bytes) for _ in range(NUM_DOWNLOADS))
        if is_whole:
            os.utime(path / RECORD)
        return is_whole


def fetch_lock(path: Path) -> Path:
    """The lock of whoever looks whether a copy is whole, or deletes it."""
    return path.with_name(f".{path.name}.fetch")


def download_whole(path: Path, num_bytes: int) -> bool:
    """Downloads an artifact; gives whether its digests are those of its record."""
    shutil.rmtree(path, ignore_errors=True)
    make_room(path, num_bytes)
    download_folder(path)
    if damage := find_damage(path):
        announce(f"{shown(path)} is damaged: {damage}")
        shutil.rmtree(path, ignore_errors=True)
    return damage is None


def read_remote_record(artifact: Remote) -> ArtifactRecord | None:
    """The record of an artifact in an object store; None where there is none that can be read."""
    try:
        return ArtifactRecord.model_validate_json(artifact.child(RECORD).read())
    except (FileNotFoundError, ValidationError):
        return None


def make_room(path: Path, num_bytes: int) -> None:
    """Deletes the copies that were not used for longest, until so many bytes find room.

    Raises:
        DiskFull: what is left is in use.
    """
    cache = cache_of(path)

    def has_room() -> bool:
        return shutil.disk_usage(cache).free >= num_bytes + SPARE_BYTES

    if has_room():
        return
    copies = [record.parent for record in cache.glob(f"{MIRROR}*/**/{RECORD}")]
    for copy in sorted(copies, key=last_use):
        with suppress(Timeout), FileLock(fetch_lock(copy), timeout=0):
            if time.time() - last_use(copy) > IN_USE_S:
                announce(f"deleting the copy of {shown(copy)}, which was not used for longest")
                shutil.rmtree(copy, ignore_errors=True)
        if has_room():
            return
    raise DiskFull(cache, f"a copy of {path.name}, {num_bytes / 1e6:.0f} MB")


def last_use(copy: Path) -> float:
    """When a copy was used last, in seconds since 1970; now where it is gone."""
    try:
        return (copy / RECORD).stat().st_mtime
    except FileNotFoundError:
        return time.time()
