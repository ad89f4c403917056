"""The files of an export."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainables.data.image_file import IMAGE_ENDINGS
from trainables.data.label_formats.export import Export


def is_visible(name: str) -> bool:
    """Whether a file or folder is neither hidden nor what macOS adds to archives."""
    return not name.startswith(".") and name != "__MACOSX"


def visible_files(folder: Path) -> Iterator[Path]:
    """All files below a folder, in order; links to folders are followed, each folder once."""
    seen = {folder.resolve()}
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = Path(parent)
        inner = {(here / name).resolve(): name for name in sorted(folders) if is_visible(name)}
        folders[:] = sorted(name for place, name in inner.items() if place not in seen)
        seen |= set(inner)
        yield from (here / name for name in sorted(names) if is_visible(name))


def visible_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and is_visible(path.name))


def images_below(folder: Path) -> Iterator[Path]:
    return (path for path in visible_files(folder) if path.suffix.lower() in IMAGE_ENDINGS)


def by_name(folder: Path, paths: Iterator[Path]) -> dict[str, Path]:
    """Images by their path below `folder`, without ending.

    Raises:
        ValueError: two have one name.
    """
    named: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if (other := named.setdefault(name, path)) != path:
            raise ValueError(
                f"images must differ in more than their ending, but got {other} and {path}"
            )
    return named


def other_files(export: Export, folders: Sequence[Path]) -> dict[Path, Counter[str]]:
    """How many files of each ending were not used, by the uppermost folders they lie in."""
    used: set[Path | str] = {*export.accounted}
    for images in export.groups.values():
        used |= {path for image in images for path in (image.image, image.source)}
    for things in export.left_out.values():
        used |= set(things)
    known = {os.path.abspath(path) for path in used}
    counts: dict[Path, Counter[str]] = {}
    for folder in folders:
        for path in visible_files(folder):
            if os.path.abspath(path) not in known:
                inner = path.relative_to(folder).parts[:-1]
                ending = path.suffix.lower() or "without ending"
                counts.setdefault(folder.joinpath(*inner[:1]), Counter())[ending] += 1
    return counts
