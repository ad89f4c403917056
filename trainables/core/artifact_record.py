"""The record of an artifact: its key and the digests of its files, by which damage is found."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue, ValidationError

from trainables.core.config_base import FrozenConfig
from trainables.core.files import hash_file

RECORD = "artifact.json"


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
