"""Folders of images and of masks: VOC's layout by CVAT and Datumaro, and simpler layouts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trainables.data.class_list import read_classes, read_lines
from trainables.data.label_formats.export import Export
from trainables.data.label_formats.found_files import (
    by_name,
    images_below,
    is_visible,
    visible_folders,
)
from trainables.data.label_formats.mask_values import (
    ONE_BIT,
    Values,
    by_colors,
    by_values,
    read_one_bit,
)
from trainables.data.label_formats.pairs import (
    Pair,
    Paired,
    ReadMask,
    export_pairs,
    pair,
    with_rest,
)
from trainables.data.label_formats.splits import split_of, wanted
from trainables.data.split_list import IMAGES, PAIR, inside, is_image
from trainables.data.voc import LABEL_MAP, LISTS, MASKS

PLAIN_IMAGES = "images"
PLAIN_MASKS = ("masks", "labels")


class Folders(NamedTuple):
    images: Path
    masks: Path


class Reading(NamedTuple):
    """How masks are read: a description, the classes, and the file of the classes if any."""

    described: str
    class_names: tuple[str, ...]
    read: ReadMask
    file: Path | None = None


class Listing(NamedTuple):
    """Pairs by group and name, pairs in no list, and listed names without an image."""

    groups: dict[str, dict[str, Pair]]
    unlisted: list[Pair]
    absent: list[str]


def read_mask_folders(source: Path, images: Path | None, values: Values | None) -> Export | None:
    """The export of folders of images and masks; None if `source` has no such folders.

    Raises:
        ValueError: there are no images, or they have no masks.
    """
    if (source / MASKS).is_dir():
        folders = Folders(images or find_images(source), source / MASKS)
        return read_one(source, folders, choose_reading(source, values))
    masks = find_masks(source)
    if masks and (images or (source / PLAIN_IMAGES).is_dir()):
        folders = Folders(images or source / PLAIN_IMAGES, masks)
        return read_one(source, folders, choose_reading(source, values))
    splits = find_splits(source)
    if splits and images:
        raise ValueError(
            f"--images must be left out where each split has its images, but {source} has "
            f"{', '.join(str(folders.images) for folders in splits.values())}"
        )
    return read_splits(splits, choose_reading(source, values)) if splits else None


def find_images(source: Path) -> Path:
    for name in (IMAGES, PLAIN_IMAGES):
        if (source / name).is_dir():
            return source / name
    raise ValueError(
        f"an export must have its images in {IMAGES} or {PLAIN_IMAGES}, but {source} has neither: "
        "export it with images, or say --images DIR"
    )


def find_masks(source: Path) -> Path | None:
    return next((source / name for name in PLAIN_MASKS if (source / name).is_dir()), None)


def find_splits(source: Path) -> dict[str, Folders]:
    """The folders of images and masks in each folder that is named for a split."""
    found = {}
    for folder in visible_folders(source):
        masks = find_masks(folder)
        if split_of(folder.name) and masks and (folder / PLAIN_IMAGES).is_dir():
            found[folder.name] = Folders(folder / PLAIN_IMAGES, masks)
    return found


def choose_reading(source: Path, values: Values | None) -> Reading:
    """Masks are read by --values, else by the label map, else as 1-bit masks."""
    if values:
        return Reading("values named by --values", values.names, by_values(values))
    path = source / LABEL_MAP
    if path.is_file():
        classes = read_classes(path)
        return Reading(f"colours of {LABEL_MAP}", classes.names, by_colors(classes, path), path)
    return Reading("1-bit", ONE_BIT.names, read_one_bit)


def read_one(source: Path, folders: Folders, reading: Reading) -> Export:
    """One folder of images and one of masks, split by lists or else by subfolders."""
    paired = pair_folders(folders)
    lists = [path for path in sorted((source / LISTS).glob("*.txt")) if is_visible(path.name)]
    listing = group_by_lists(paired, lists) if lists else group_by_subfolders(paired)
    is_voc = folders.masks.name == MASKS
    tool = "CVAT segmentation mask 1.1" if is_voc and reading.file else "images and masks"
    described = f"{tool} ({folders.images.name}, {folders.masks.name}; masks: {reading.described})"
    export = export_pairs(described, reading.class_names, listing.groups, reading.read)
    export = with_rest(export, [paired], [*lists, *files_of(reading)])
    left_out = {
        **export.left_out,
        "images in no list": [each.image for each in listing.unlisted],
        "listed names without an image": listing.absent,
    }
    masks = {each.mask for each in listing.unlisted}
    return export._replace(left_out=left_out, accounted=export.accounted | masks)


def read_splits(splits: Mapping[str, Folders], reading: Reading) -> Export:
    """A folder of images and one of masks for each split."""
    paired = {name: pair_folders(splits[name]) for name in wanted(list(splits))}
    described = f"images and masks ({', '.join(paired)}; masks: {reading.described})"
    groups = {name: each.pairs for name, each in paired.items()}
    export = export_pairs(described, reading.class_names, groups, reading.read)
    return with_rest(export, paired.values(), files_of(reading))


def files_of(reading: Reading) -> list[Path]:
    return [reading.file] if reading.file else []


def pair_folders(folders: Folders) -> Paired:
    images, masks = (by_name(folder, images_below(folder)) for folder in folders)
    return pair(images, masks, folders.masks.parent)


def group_by_lists(paired: Paired, lists: Sequence[Path]) -> Listing:
    """The pairs that the lists of each split name.

    Lists that are not named for a split give the images that no other list names.
    """
    named: dict[str, list[str]] = {}
    for path in lists:
        names = [listed_name(path, line, paired) for line in read_lines(path)]
        named.setdefault(split_of(path.stem) or "", []).extend(names)
    divided = {name for split, names in named.items() if split for name in names}
    named[""] = [name for name in named.get("", []) if name not in divided]
    listed = divided.union(named[""])
    return Listing(
        {
            split: {name: paired.pairs[name] for name in names if name in paired.pairs}
            for split, names in named.items()
        },
        [each for name, each in paired.pairs.items() if name not in listed],
        sorted(listed - set(paired.pairs) - set(paired.no_mask)),
    )


def listed_name(listing: Path, line: str, paired: Paired) -> str:
    """The name in a line of a list: a name, or the path of an image, or of a pair."""
    if line in paired.pairs:
        return line
    pair = PAIR.fullmatch(line)
    text = pair[1].lstrip("/") if pair and is_image(pair[1]) and is_image(pair[2]) else line
    name = inside(listing, text)
    name = name.with_suffix("") if is_image(text) else name
    return (name.relative_to(IMAGES) if name.is_relative_to(IMAGES) else name).as_posix()


def group_by_subfolders(paired: Paired) -> Listing:
    """Pairs by their uppermost folder if it is named for a split, as `images/train` is."""
    groups: dict[str, dict[str, Pair]] = {}
    for name, each in paired.pairs.items():
        first, inner, _ = name.partition("/")
        groups.setdefault(first if inner and split_of(first) else "", {})[name] = each
    return Listing(groups, [], [])
