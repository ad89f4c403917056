"""Where the storage of a command line lies: in a folder, or in an object store."""

from collections.abc import Collection
from pathlib import Path

from search.core.tracking_uri import database_of
from search.storage.mirrored_studies import download_studies
from trainables.core.command_line import first_line
from trainables.core.files import is_writable, nearest
from trainables.core.mirror import cache_of, check_store, is_mirrored, moved_to_cache, shown


def open_storage(storage: Path, cache: Path | None, names: Collection[str | None] = ()) -> Path:
    """The folder of a storage that can be written.

    That of an object store is its mirror in the cache, into which the studies of these names are
    brought, and of all others what studies know of one another.

    Raises:
        ValueError: storage or cache cannot be written or created.
    """
    if is_mirrored(storage) and cache:
        storage = moved_to_cache(storage, cache)
    used = cache_of(storage) if is_mirrored(storage) else cache
    if used and not is_writable(used):
        raise ValueError(f"--cache must be a writable folder, but {nearest(used)} is not")
    if not is_mirrored(storage):
        check_writable(storage)
        return storage
    try:
        check_store(storage)
        download_studies(storage, lambda name: name in names)
    except OSError as error:
        raise ValueError(
            f"--storage must be a bucket that can be read and written, but {shown(storage)}: "
            f"{first_line(error)}"
        ) from error
    return storage


def check_writable(storage: Path) -> None:
    """Raises ValueError where a folder cannot be created or written."""
    if not is_writable(storage):
        raise ValueError(f"--storage must be a writable folder, but {nearest(storage)} is not")


def store_note(storage: Path, tracking_uri: str) -> str:
    """A line on an MLflow store that stays on this machine, unlike the storage; else ""."""
    if not is_mirrored(storage) or database_of(tracking_uri) is None:
        return ""
    return (
        f"note: MLflow's store {tracking_uri} is on this machine alone: --tracking-uri names one "
        "for all"
    )
