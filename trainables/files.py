"""Files that are whole or absent, and what they hold."""

import hashlib
import os
from pathlib import Path


def replace_file(path: Path, content: bytes | str) -> None:
    """Writes a file aside and renames it, so that nobody ever reads half of it.

    Raises:
        OSError: the disk is full, or the like; then the file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
