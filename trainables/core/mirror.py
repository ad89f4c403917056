"""Files of an object store, such as S3, in a mirror: a folder on this machine.

Programs read and write plain files. The path of a mirror says what it mirrors: for
s3://bucket/prefix it is CACHE/mirror-of-s3/bucket/prefix. What is written there is uploaded at once
by `trainables.core.files`, and what other machines wrote is downloaded where it is opened. Paths
outside mirrors are those of local files, to which these functions do what is left of that.

An object store must show each write to all later reads, as S3 has done since 2020.
"""

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

MIRROR = "mirror-of-"
"""What the name of the folder begins with in which mirrors lie; the scheme of a URI follows."""
SCHEMES = ("s3", "gs", "abfs")
"""Object stores that pyarrow opens; tests use S3's protocol."""
SHARED_FOLDER = "file"
"""The scheme of a folder that machines share, which is mirrored so that it is read only once."""
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Variables with the address of a store of S3's protocol that is not Amazon's."""
NUM_ATTEMPTS = 8
"""Attempts of a request, with pauses of up to 20 s, before it fails."""
LATE_S = 60.0
"""Seconds after which a network file system shows a file at the latest."""
NUM_CONNECTIONS = 8
"""Files that are downloaded at once: each takes tens of milliseconds, however small it is."""


def default_cache() -> Path:
    """Where mirrors lie without another choice."""
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "paretoseg"


def mirror_folder(uri: str, cache: Path) -> Path:
    """The mirror of an object store's folder, below a folder of this machine.

    Raises:
        ValueError: the URI is not of an object store, or names no bucket.
    """
    scheme, _, place = uri.partition("://")
    parts = place.rstrip("/").split("/")
    if scheme not in SCHEMES or not all(parts) or {".", ".."} & set(parts):
        known = ", ".join(f"{name}://BUCKET/PREFIX" for name in SCHEMES)
        raise ValueError(f"must be a path, or one of {known}, but got {uri!r}")
    return cache.joinpath(f"{MIRROR}{scheme}", *parts)


def mirror_of_shared(folder: Path, cache: Path) -> Path:
    """The mirror of a folder that machines share."""
    return cache / f"{MIRROR}{SHARED_FOLDER}" / folder.absolute().relative_to(folder.anchor or "/")


def is_mirrored(path: Path) -> bool:
    """Whether a path is in a mirror."""
    return any(part.startswith(MIRROR) for part in path.parts)


def cache_of(path: Path) -> Path:
    """The folder in which a mirror lies; for other paths, the folder of the path."""
    for parent in path.parents:
        if parent.name.startswith(MIRROR):
            return parent.parent
    return path.parent


def moved_to_cache(path: Path, cache: Path) -> Path:
    """The same place of an object store in the mirrors of another cache."""
    return cache / path.relative_to(cache_of(path))


def shown(path: Path) -> str:
    """A path for messages: of a mirror, the URI that it mirrors."""
    if not is_mirrored(path):
        return str(path)
    first, *rest = path.relative_to(cache_of(path)).parts
    scheme = first.removeprefix(MIRROR)
    return f"/{'/'.join(rest)}" if scheme == SHARED_FOLDER else f"{scheme}://{'/'.join(rest)}"


OpenStore = Callable[[str, str], tuple[Any, str]]
"""Gives the file system of a scheme and a bucket, and what the keys of its files begin with."""


@dataclass(frozen=True)
class Remote:
    """A file or a folder of an object store, by its key in a file system of pyarrow."""

    fs: Any
    key: str
    is_shared_folder: bool = False

    def child(self, name: str) -> "Remote":
        return Remote(self.fs, f"{self.key}/{name}", self.is_shared_folder)

    @property
    def is_there(self) -> bool:
        """Whether it is a file, or a folder with files."""
        return bool(self.fs.get_file_info(self.key).type)

    def read(self) -> bytes:
        """The content of a file."""
        with self.fs.open_input_stream(self.key) as stream:
            content: bytes = stream.read()
        return content

    def write(self, content: bytes) -> None:
        """Replaces a file by some bytes."""
        with self.fs.open_output_stream(self.key) as stream:
            stream.write(content)

    def put(self, source: Path) -> None:
        """Uploads a file; readers see the former content or all of the new."""
        if not self.is_shared_folder:
            copy_file(str(source), self.key, to=self.fs)
            return
        path = Path(self.key)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, aside)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    def files(self, recursive: bool = True) -> dict[str, Any]:
        """Of each file below a folder its size and time, by its path from there."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self.key, recursive=recursive, allow_not_found=True)
        return {
            info.path[len(self.key) + 1 :]: info
            for info in self.fs.get_file_info(selector)
            if info.type == FileType.File
        }

    def folders(self) -> list[str]:
        """The names of the folders in a folder."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self.key, allow_not_found=True)
        found = self.fs.get_file_info(selector)
        return sorted(info.base_name for info in found if info.type == FileType.Directory)

    def delete(self) -> None:
        """Deletes a file or a folder, if it is there."""
        from pyarrow.fs import FileType

        kind = self.fs.get_file_info(self.key).type
        with suppress(FileNotFoundError):  # another process was faster
            if kind == FileType.File:
                self.fs.delete_file(self.key)
            elif kind == FileType.Directory:
                self.fs.delete_dir(self.key)


def remote_of(path: Path, open_by: OpenStore | None = None) -> Remote | None:
    """What a path mirrors, opened by `open_store` or another way; None where it mirrors nothing.

    Raises:
        OSError: the object store does not answer.
    """
    if not is_mirrored(path):
        return None
    first, *rest = path.relative_to(cache_of(path)).parts
    if (scheme := first.removeprefix(MIRROR)) == SHARED_FOLDER:
        from pyarrow.fs import LocalFileSystem

        return Remote(LocalFileSystem(), f"/{'/'.join(rest)}", is_shared_folder=True)
    fs, root = (open_by or open_store)(scheme, rest[0])
    return Remote(fs, "/".join([root, *rest[1:]]))


def open_impatiently(scheme: str, bucket: str) -> tuple[Any, str]:
    """The same as `open_store`, but requests fail after a few attempts."""
    from pyarrow.fs import FileSystem

    fs, root = FileSystem.from_uri(f"{scheme}://{bucket}")
    return fs, root


@lru_cache
def open_store(scheme: str, bucket: str) -> tuple[Any, str]:
    """The file system of a bucket, and what the keys of its files begin with.

    The address and the credentials are those that tools of the store's maker use, as
    AWS_ENDPOINT_URL, AWS_PROFILE or the role of a machine.
    """
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    fs, root = open_impatiently(scheme, bucket)
    if isinstance(fs, S3FileSystem):  # a training of hours outlives a minute without answers
        address = urlsplit(next(filter(None, map(os.environ.get, ENDPOINTS)), ""))
        fs = S3FileSystem(
            region=fs.region,
            endpoint_override=address.netloc or None,
            scheme=address.scheme or None,
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=NUM_ATTEMPTS),
        )
    return fs, root


def check_store(path: Path) -> None:
    """Raises OSError where files cannot be written, listed and deleted below a mirrored path."""
    if (remote := remote_of(path, open_impatiently)) is not None:
        probe = remote.child(f".probe-{uuid.uuid4().hex}")
        probe.write(b"probe")
        if not probe.is_there:
            raise OSError("it does not show what was just written")
        probe.delete()


def copy_file(source: str, target: str, *, of: Any = None, to: Any = None) -> None:
    from pyarrow.fs import LocalFileSystem, copy_files

    copy_files(
        source,
        target,
        source_filesystem=of or LocalFileSystem(),
        destination_filesystem=to or LocalFileSystem(),
    )


def upload(path: Path, source: Path) -> None:
    """Uploads `source` as the file or folder of a mirror at `path`, what was written last at last.

    Raises:
        OSError: the object store refuses it, or does not answer.
    """
    if (remote := remote_of(path)) is None:
        return
    if source.is_file():
        remote.put(source)
        return
    files = [file for file in source.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns):
        remote.child(str(PurePosixPath(file.relative_to(source)))).put(file)


def download(path: Path) -> None:
    """Brings a file of a mirror up to date: it is deleted where the object store has none."""
    if (remote := remote_of(path)) is not None:
        info = remote.fs.get_file_info(remote.key)
        if info.is_file:
            download_as(path, remote, info)
        else:
            path.unlink(missing_ok=True)


def download_folder(
    folder: Path,
    is_wanted: Callable[[str], bool] = lambda name: True,
    recursive: bool = True,
    files: dict[str, Any] | None = None,
) -> None:
    """Brings those files of a mirror's folder up to date whose paths from there are wanted.

    `files` is what the object store has, where that is known. Files that it lacks are deleted.
    """
    if (remote := remote_of(folder)) is None:
        return
    files = remote.files(recursive) if files is None else files
    wanted = {name: info for name, info in files.items() if is_wanted(name)}
    here = folder.rglob("*") if recursive else folder.glob("*")
    for file in list(here):
        name = str(PurePosixPath(file.relative_to(folder)))
        is_gone = file.is_file() and is_wanted(name) and name not in wanted
        if is_gone and not remote.child(name).is_there:  # it may be newer than the list
            file.unlink(missing_ok=True)
    with ThreadPoolExecutor(NUM_CONNECTIONS) as threads:
        tasks = [
            threads.submit(download_as, folder / name, remote.child(name), info)
            for name, info in wanted.items()
        ]
    for task in tasks:
        task.result()


def download_as(path: Path, remote: Remote, info: Any) -> None:
    """Downloads a file, unless the one that is here has its size and its time."""
    with suppress(FileNotFoundError):
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (info.size, info.mtime_ns):
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        copy_file(remote.key, str(aside), of=remote.fs)
        os.utime(aside, ns=(info.mtime_ns, info.mtime_ns))
        os.replace(aside, path)
    except FileNotFoundError:  # deleted since it was listed
        path.unlink(missing_ok=True)
    finally:
        aside.unlink(missing_ok=True)


def delete(path: Path) -> None:
    """Deletes a file or a folder, if it is there, also from the object store that it mirrors.

    Raises:
        OSError: the object store does not answer.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    if (remote := remote_of(path)) is not None:
        remote.delete()


def drop_copy(folder: Path) -> None:
    """Deletes this machine's copy of a folder that the object store has."""
    if is_mirrored(folder):
        shutil.rmtree(folder, ignore_errors=True)


def delete_matching(folder: Path, is_unwanted: Callable[[str], bool]) -> None:
    """Deletes the files of a mirror's object store whose paths from `folder` are unwanted."""
    if (remote := remote_of(folder)) is not None:
        for name in filter(is_unwanted, list(remote.files())):
            remote.child(name).delete()


def is_listed(path: Path) -> bool:
    """Whether a file or a folder is in the listing of its folder.

    A network file system may remember that there was none when it is asked for the path alone.
    """
    try:
        return path.name in os.listdir(path.parent)
    except (FileNotFoundError, NotADirectoryError):
        return False


def wait_until_visible(path: Path) -> None:
    """Waits until a file or a folder is seen here that is in the listing of its folder.

    A network file system may remember for half a minute that there was none.
    """
    if not path.parent.exists():
        wait_until_visible(path.parent)
    deadline = time.monotonic() + LATE_S
    while is_listed(path) and not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def exists(path: Path) -> bool:
    """Whether there is a file or a folder, here or in the object store that the path mirrors.

    An object store that does not answer has none.
    """
    if is_listed(path):
        return True
    with suppress(OSError):
        remote = remote_of(path)
        return remote is not None and remote.is_there
    return False


def names_of(folder: Path) -> Sequence[str]:
    """The names of the folders in a folder, also of the object store that it mirrors."""
    remote = remote_of(folder)
    found: Iterable[str] = remote.folders() if remote else ()
    here = (path.name for path in folder.glob("*") if path.is_dir())
    return sorted({*found, *here})
