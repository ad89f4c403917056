"""Copies of artifacts on this machine, where the storage is an object store or a shared folder."""

import os
import shutil
import time
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from trainables.core.artifact_record import RECORD, ArtifactRecord, find_damage
from trainables.core.errors import DiskFull
from trainables.core.mirror import MIRROR, Remote, cache_of, download_folder, remote_of, shown
from trainables.core.progress import announce

SPARE_BYTES = 500_000_000
"""What remains free of a cache's disk."""
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
    with FileLock(path.with_name(f".{path.name}.fetch")):
        if path.is_dir() and find_damage(path, deep) is None:
            os.utime(path / RECORD)
            return True
        shutil.rmtree(path, ignore_errors=True)
        if (record := read_remote_record(remote)) is None:
            return False
        num_bytes = sum(length for length, _ in record.files.values())
        make_room(path, num_bytes)
        announce(f"copying {shown(path)} to this machine, {num_bytes / 1e6:.1f} MB")
        download_folder(path)
        os.utime(path / RECORD)
        if damage := find_damage(path):
            announce(f"{shown(path)} is damaged: {damage}")
            shutil.rmtree(path)
        return damage is None


def read_remote_record(artifact: Remote) -> ArtifactRecord | None:
    """The record of an artifact in an object store; None where there is none that can be read."""
    record = artifact.child(RECORD)
    try:
        with record.fs.open_input_stream(record.key) as stream:
            return ArtifactRecord.model_validate_json(stream.read())
    except (FileNotFoundError, ValidationError):
        return None


def make_room(path: Path, num_bytes: int) -> None:
    """Deletes the copies that were not used for longest, until so many bytes find room.

    Raises:
        DiskFull: what is left is in use.
    """
    cache = cache_of(path)
    unused = [
        (used, record.parent)
        for record in cache.glob(f"{MIRROR}*/**/{RECORD}")
        if time.time() - (used := record.stat().st_mtime) > IN_USE_S
    ]
    for _, copy in [*sorted(unused), (0.0, None)]:
        if shutil.disk_usage(cache).free >= num_bytes + SPARE_BYTES:
            return
        if copy is not None:
            announce(f"deleting the copy of {shown(copy)}, which was not used for longest")
            shutil.rmtree(copy, ignore_errors=True)
    raise DiskFull(cache, f"a copy of {path.name}, {num_bytes / 1e6:.0f} MB")
