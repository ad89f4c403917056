"""The list of a split in VOC layout, and the files that it names."""

import re
from pathlib import Path
from typing import NamedTuple

from trainables.data.class_list import read_lines
from trainables.data.image_file import IMAGE_ENDINGS, MASK_ENDINGS

IMAGES = "JPEGImages"
CONVERT = "python -m trainables.convert {} --out DIR reads what labelling tools export"
"""The remedy where a folder is not in this layout."""
PAIR = re.compile(r"(\S.*\.\w+)\s+(\S.*\.\w+)")
"""The paths of an image and of its mask, below the data folder."""
OF_ONE_CLASS = re.compile(r"(.*\S)\s+(-1|0|1)")
"""A name, and whether the image shows one class, as in VOC's ImageSets/Main."""


class Entry(NamedTuple):
    """One sample of a split: its name and its files, which may be absent."""

    name: str
    image: Path
    mask: Path


def read_split(root: Path, listing: Path, masks: str) -> list[Entry]:
    """The samples of a list of names, or of pairs of an image and a mask.

    `masks` is the folder of the masks below `root`.

    Raises:
        ValueError: the list is absent, empty or malformed, names something twice, leaves the
            folder, or two images have one name.
    """
    if not listing.is_file():
        raise ValueError(
            f"the list of a split must exist, but there is no {listing}: {CONVERT.format(root)}"
        )
    lines = read_lines(listing)
    if not lines:
        raise ValueError(f"a split must list at least one image, but {listing} is empty")
    files = Files()
    entries = [read_entry(root, listing, masks, line, files) for line in lines]
    images = [entry.image for entry in entries]
    if len(set(images)) != len(images):
        twice = next(entry.name for entry in entries if images.count(entry.image) > 1)
        raise ValueError(f"a split must list an image once, but {listing} lists {twice!r} twice")
    return entries


def read_entry(root: Path, listing: Path, masks: str, line: str, files: "Files") -> Entry:
    pair = PAIR.fullmatch(line)
    if pair and is_image(pair[1]) and is_image(pair[2]) and not is_name(root, line, files):
        image, mask = (inside(listing, part.lstrip("/")) for part in pair.groups())
        name = image.relative_to(IMAGES) if image.is_relative_to(IMAGES) else image
        return Entry(str(name.with_suffix("")), root / image, root / mask)
    inside(listing, line)
    images = files.find(root / IMAGES, line, IMAGE_ENDINGS)
    if len(images) > 1:
        raise ValueError(
            f"images must differ in more than their ending, but {listing} lists {line!r}, and "
            f"there are {images[0]} and {images[1]}"
        )
    single = OF_ONE_CLASS.fullmatch(line)
    if not images and single and files.find(root / IMAGES, single[1], IMAGE_ENDINGS):
        raise ValueError(
            f"a list must hold one name a line, but {listing} has {line!r}, as VOC's lists of a "
            f"single class do: leave {single[2]} out, and use the lists of ImageSets/Segmentation"
        )
    if not images and is_image(line) and (root / IMAGES / line).is_file():
        images, line = [root / IMAGES / line], line.removesuffix(Path(line).suffix)
    found = files.find(root / masks, line, MASK_ENDINGS) or files.find(
        root / masks, line, IMAGE_ENDINGS
    )
    usual = root / masks / f"{line}{MASK_ENDINGS[0]}"
    if len(found) > 1 and usual not in found:
        raise ValueError(
            f"masks must differ in more than their ending, but there are {found[0]} and {found[1]}"
        )
    image = images[0] if images else root / IMAGES / f"{line}{IMAGE_ENDINGS[0]}"
    return Entry(line, image, usual if usual in found or not found else found[0])


def inside(listing: Path, name: str) -> Path:
    """A listed path below the data folder.

    Raises:
        ValueError: it leads out of the folder.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"a listed image must lie in its folder, but {listing} lists {name!r}")
    return path


def is_name(root: Path, line: str, files: "Files") -> bool:
    """Whether a line that looks like two paths is the name of one image with a space in it."""
    return not line.startswith("/") and bool(files.find(root / IMAGES, line, IMAGE_ENDINGS))


def is_image(name: str) -> bool:
    """Whether a name has the ending of an image."""
    return Path(name).suffix.lower() in IMAGE_ENDINGS


class Files:
    """Finds files by their names without ending; each folder is read once."""

    def __init__(self) -> None:
        self.folders: dict[Path, dict[str, list[Path]]] = {}

    def find(self, folder: Path, name: str, endings: tuple[str, ...]) -> list[Path]:
        """The files of this name with any of the endings, in any case, in order of `endings`."""
        path = folder / name
        if path.parent not in self.folders:
            self.folders[path.parent] = read_folder(path.parent)
        found = self.folders[path.parent].get(path.name, [])
        fitting = [file for file in found if file.suffix.lower() in endings]
        return sorted(fitting, key=lambda file: (endings.index(file.suffix.lower()), file.name))


def read_folder(folder: Path) -> dict[str, list[Path]]:
    """The paths in a folder by their names without ending; none where there is no folder."""
    paths: dict[str, list[Path]] = {}
    if folder.is_dir():
        for path in folder.iterdir():
            paths.setdefault(path.stem, []).append(path)
    return paths
