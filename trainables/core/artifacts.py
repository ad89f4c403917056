"""The artifact store: expensive results, built once and shared by trials, nodes and studies."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import JsonValue, ValidationError

from trainables.core.config_base import FrozenConfig, digest
from trainables.core.files import hash_file, whole_folder
from trainables.core.progress import PROGRESS_EVERY_S, announce

RECORD = "artifact.json"


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
        return read_artifact(path) if path.is_dir() and find_damage(path) is None else None

    def get(self, kind: str, key: Mapping[str, object], build: Callable[[Path], None]) -> Artifact:
        """The artifact of `key`, which `build` writes into an empty folder at first use.

        Several processes may call at once: one builds, the others wait for it. A build that fails
        or is killed leaves no artifact behind, and a damaged artifact is built again.
        """
        path = self.path(kind, key)
        if (found := self.find(kind, key)) is not None:
            return found
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(path):
            if (found := self.find(kind, key)) is not None:
                return found
            if path.is_dir():
                announce(f"building {path} again: {find_damage(path)}")
                shutil.rmtree(path)
            for killed in set(self.root.glob(f".{path.name}-*")) - {checkpoint_folder(path)}:
                shutil.rmtree(killed)
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
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of an artifact; says what it waits for while another process holds it."""
    lock, wait_s = FileLock(lock_file(path)), 0.0
    while not lock.is_locked:
        try:
            lock.acquire(timeout=wait_s)
        except Timeout:
            announce(f"waiting for {path.name}, which another process builds")
            wait_s = PROGRESS_EVERY_S
    try:
        yield
    finally:
        lock.release()


class ArtifactRecord(FrozenConfig):
    """The content of artifact.json; `files` holds the length and the SHA-256 of each file."""

    key: dict[str, JsonValue]
    seconds: float
    files: dict[str, tuple[int, str]]


def read_artifact_record(path: Path) -> ArtifactRecord:
    """The record of an artifact.

    Raises:
        ValueError: it is damaged, or there is none.
    """
    try:
        return ArtifactRecord.model_validate_json((path / RECORD).read_bytes())
    except (OSError, ValidationError) as error:
        raise ValueError(f"{path} has no readable {RECORD}") from error


def read_artifact(path: Path) -> Artifact:
    """The artifact in a folder.

    Raises:
        ValueError: it is no artifact.
    """
    record = read_artifact_record(path)
    return Artifact(path, record.key, record.seconds)


def check_artifact(path: Path, kind: str, form: int) -> None:
    """Raises ValueError where `path` is no artifact of a kind and format, or is incomplete."""
    damage = find_damage(path, deep=False)
    if damage is None and not path.name.startswith(f"{kind}-"):
        damage = f"it is no artifact of kind {kind}"
    if damage is None and (found := read_artifact(path).key.get("format")) != form:
        damage = f"its format is {found}, not {form}"
    if damage is not None:
        raise ValueError(f"{path} must be a whole artifact of this version, but {damage}")


def find_damage(path: Path, deep: bool = True) -> str | None:
    """A description of the damage of an artifact: a file that is missing, truncated or changed.

    Unless `deep`, contents are not read, so that changes of the same length are not detected.
    """
    try:
        recorded = read_artifact_record(path).files
    except ValueError:
        return f"it has no readable {RECORD}"
    for name, (length, checksum) in recorded.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != length:
            return f"{name} has {file.stat().st_size} bytes instead of {length}"
        if deep and hash_file(file) != checksum:
            return f"{name} has changed since it was written"
    return None


def list_files(folder: Path) -> Iterator[str]:
    """Names of the files of an artifact, without its record."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return (str(path.relative_to(folder)) for path in files if path.name != RECORD)


def describe_file(path: Path) -> tuple[int, str]:
    return path.stat().st_size, hash_file(path)
