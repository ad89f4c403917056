"""Atomic writes of files and folders, and hashes of files."""

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

from trainables.core.errors import DiskFull
from trainables.core.mirror import cache_of, delete, download, is_mirrored, upload


def replace_file(path: Path, content: bytes | str) -> None:
    """Writes a file atomically: under a temporary name, which is then renamed.

    In a mirror it is uploaded before.

    Raises:
        DiskFull: the file is unchanged.
        OSError: the object store does not take it; the file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        with aside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        upload(path, aside)
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        if is_full_disk(error):
            raise DiskFull(path.parent, path.name) from error
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `path` at the end of the block, or else removed.

    In a mirror it is uploaded before; what is written into it meanwhile is not.

    Raises:
        DiskFull: the temporary folder is removed.
    """
    aside = Path(mkdtemp(prefix=f".{path.name}-", dir=cache_of(path)))
    try:
        yield aside
        aside.chmod(0o755)
        upload(path, aside)
        try:
            os.replace(aside, path)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not is_mirrored(path):
                raise  # otherwise another process has downloaded it meanwhile
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise DiskFull(path.parent, path.name) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_shared(file: Path, seen_within_s: float) -> str:
    """What another machine wrote to a file, if it can be seen, and written beside, from here.

    Otherwise what is wrong, as the rest of a sentence about this machine. Network file systems may
    show a new file some seconds late.
    """
    deadline = time.monotonic() + seen_within_s
    while not is_visible(file):
        if time.monotonic() > deadline:
            return "does not see what another has written there"
        time.sleep(0.2)
    own = file.with_name(f"{file.name}-{uuid.uuid4().hex[:12]}")
    try:
        replace_file(own, "")
        delete(own)
    except OSError as error:
        return f"cannot write there ({error.strerror or error})"
    return file.read_text()


def is_visible(file: Path) -> bool:
    """Whether a file is there; one of a mirror is downloaded."""
    with suppress(OSError):  # no access to the object store
        download(file)
    return file.is_file()


def is_full_disk(error: BaseException) -> bool:
    """Whether an error means that a disk is full or the user's quota is exhausted."""
    return isinstance(error, DiskFull) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    )


def nearest(folder: Path) -> Path:
    """The folder itself, or the nearest parent that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def is_writable(folder: Path) -> bool:
    """Whether a folder can be written or created."""
    there = nearest(folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_file_once(path: Path) -> str:
    """The same, computed again in this process only if the file's size or time has changed."""
    status = path.stat()
    return _hash_file_of(path.absolute(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash_file_of(path: Path, size: int, modified_ns: int) -> str:
    return hash_file(path)
