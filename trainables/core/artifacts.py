"""The artifact store: expensive results, built once and shared by trials, nodes and studies.

In a mirror each machine has copies of the artifacts that it uses, which are fetched where they are
looked for.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from trainables.core.artifact_cache import fetch, make_room
from trainables.core.artifact_record import (
    RECORD,
    ArtifactRecord,
    describe_file,
    find_damage,
    list_files,
    read_artifact_record,
)
from trainables.core.config_base import digest
from trainables.core.files import whole_folder
from trainables.core.mirror import cache_of, delete, is_mirrored, wait_until_visible
from trainables.core.mirror_lock import shared_lock
from trainables.core.progress import PROGRESS_EVERY_S, announce

LOOK_EVERY_S = 1.0
"""Seconds between two looks at what else may happen while another process builds."""


builds = ContextVar("builds", default=True)
"""Whether `ArtifactStore.get` builds what is not there."""


class NotBuilt(LookupError):
    """An artifact is not there, where none is to be built."""


@contextmanager
def only_found() -> Iterator[None]:
    """Inside, `ArtifactStore.get` raises NotBuilt where it would build."""
    token = builds.set(False)
    try:
        yield
    finally:
        builds.reset(token)


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its folder, its key, and the seconds it took to build."""

    path: Path
    key: Mapping[str, object]
    seconds: float


@dataclass(frozen=True)
class ArtifactStore:
    """A folder of artifacts, each named by the digest of all that determines its content."""

    root: Path

    def path(self, kind: str, key: Mapping[str, object]) -> Path:
        """The folder of the artifact of `key`, which may not exist."""
        return self.root / f"{kind}-{digest(key)}"

    def find(self, kind: str, key: Mapping[str, object]) -> Artifact | None:
        """The artifact of `key` if it exists and is complete."""
        path = self.path(kind, key)
        if is_mirrored(path):
            return read_artifact(path) if fetch(path) else None
        return read_artifact(path) if path.is_dir() and find_damage(path) is None else None

    def get(
        self,
        kind: str,
        key: Mapping[str, object],
        build: Callable[[Path], None],
        while_waiting: Callable[[], None] | None = lambda: None,
    ) -> Artifact:
        """The artifact of `key`, which `build` writes into an empty folder at first use.

        Several processes may call at once: one builds, the others wait for it and meanwhile call
        `while_waiting`. A build that fails or is killed leaves no artifact behind, and a damaged
        artifact is built again.

        Raises:
            NotBuilt: another process builds it, and `while_waiting` is None.
        """
        path = self.path(kind, key)
        if (found := self.find(kind, key)) is not None:
            return found
        if not builds.get():
            raise NotBuilt(path.name)
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(path, while_waiting):
            wait_until_visible(path)
            if (found := self.find(kind, key)) is not None:
                return found
            if path.is_dir():
                announce(f"building {path} again: {find_damage(path)}")
            delete(path)
            killed = {*self.root.glob(f".{path.name}-*"), *cache_of(path).glob(f".{path.name}-*")}
            for folder in killed - {checkpoint_folder(path)}:
                shutil.rmtree(folder)
            if is_mirrored(path):
                make_room(path, 0)
            self._build(path, key, build)
        return read_artifact(path)

    def _build(self, path: Path, key: Mapping[str, object], build: Callable[[Path], None]) -> None:
        with whole_folder(path) as aside:
            start = time.perf_counter()
            build(aside)
            seconds = time.perf_counter() - start
            files = {name: describe_file(aside / name) for name in list_files(aside)}
            record = ArtifactRecord(key=dict(key), seconds=seconds, files=files)
            (aside / RECORD).write_text(record.model_dump_json(indent=1))


def checkpoint_folder(path: Path) -> Path:
    """The folder of a build's checkpoints, from which it continues after a kill."""
    return path.with_name(f".{path.name}-checkpoints")


def lock_file(path: Path) -> Path:
    """The lock that a build of an artifact holds; `path` may also be of a partial artifact."""
    kind, name = path.name.lstrip(".").split("-")[:2]
    return path.with_name(f".{kind}-{name}.lock")


@contextmanager
def locked(path: Path, while_waiting: Callable[[], None] | None = lambda: None) -> Iterator[None]:
    """Holds the lock of an artifact; says what it waits for while another process holds it."""
    lock, wait_s, said = shared_lock(lock_file(path)), 0.0, -math.inf
    while not lock.is_locked:
        try:
            lock.acquire(timeout=wait_s)
        except Timeout:
            if while_waiting is None:
                raise NotBuilt(path.name) from None
            wait_s = LOOK_EVERY_S
            if time.monotonic() - said >= PROGRESS_EVERY_S:
                said = time.monotonic()
                announce(f"waiting for {path.name}, which another process builds")
            while_waiting()
    try:
        yield
    finally:
        lock.release()


def read_artifact(path: Path) -> Artifact:
    """The artifact in a folder.

    Raises:
        ValueError: it is no artifact.
    """
    record = read_artifact_record(path)
    return Artifact(path, record.key, record.seconds)


def is_there(path: Path) -> bool:
    """Whether there is an artifact, which is copied to this machine where it is in a mirror."""
    return fetch(path, deep=False) if is_mirrored(path) else path.is_dir()


def present(file: Path) -> Path:
    """A file of an artifact, which is copied to this machine before if it is in a mirror."""
    if is_mirrored(file):
        fetch(file.parent, deep=False)
    return file


def check_artifact(path: Path, kind: str, form: int) -> None:
    """Raises ValueError where `path` is no artifact of a kind and format, or is incomplete."""
    is_whole = is_mirrored(path) and fetch(path, deep=False)
    damage = None if is_whole else find_damage(path, deep=False)
    if damage is None and not path.name.startswith(f"{kind}-"):
        damage = f"it is no artifact of kind {kind}"
    if damage is None and (found := read_artifact(path).key.get("format")) != form:
        damage = f"its format is {found}, not {form}"
    if damage is not None:
        raise ValueError(f"{path} must be a whole artifact of this version, but {damage}")
