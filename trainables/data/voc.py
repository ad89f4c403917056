"""Labelled images in the layout of PASCAL VOC (Everingham et al. 2010)."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.core.config_base import digest
from trainables.core.files import hash_file
from trainables.core.terminal import track
from trainables.data.base import SPLITS, FileRole, Sample, Split, compress_labels
from trainables.data.class_list import ClassList, read_classes, read_lines
from trainables.data.configs import LabelSize
from trainables.data.dataset_checks import (
    Fit,
    SampleInfo,
    check_colors,
    check_peaks,
    check_splits,
    images_as_stored,
    notes_on,
)
from trainables.data.image_file import (
    DEEP_GREY_MODES,
    check_image_mode,
    check_mask_format,
    is_by_color,
    load,
    load_mask,
    orientation_of,
    peak_of,
    read_header,
    read_image,
    read_labels,
    to_rgb,
    turn,
    used_colors,
)
from trainables.data.labels import IGNORE, VOC_CLASSES
from trainables.data.split_list import CONVERT, IMAGES, Entry, read_split

Item = TypeVar("Item")
Answer = TypeVar("Answer")

LISTS, MASKS = "ImageSets/Segmentation", "SegmentationClass"
CLASSES, LABEL_MAP, VOC_FOLDER = "classes.txt", "labelmap.txt", "VOC2012"
PAD_RGB = (124, 116, 104)  # ImageNet's mean, 0 after normalisation
LARGEST_LABELS = 1024
"""Longest side, in pixels, of masks that mIoU is measured on: a photograph of 12 megapixels would
take longer to score than to train on."""
FIRST_SWAPPED = 5
"""From this EXIF orientation on, rotation swaps width and height."""


class VocFolder:
    """A folder in VOC layout, its samples shrunk to a longest side of `image_size` pixels.

    Smaller images keep their size. With `teacher_size`, a sample shows the same section of the
    canvas, larger by `teacher_size` / `image_size`, with as much detail as its file has. Where the
    size of a validation image is changed, validation samples have their masks at their own size,
    or of `LARGEST_LABELS` pixels, too, unless `label_size` is "packed".

    With SBD's `SegmentationClassAug` and `train_aug.txt` (Hariharan et al. 2011) the training split
    is the augmented one. Every file is checked before class names or a sample are returned, so that
    no trial fails because of a bad file.

    Raises:
        ValueError: the folder breaks a rule of the layout; the message names rule, value and file.
    """

    def __init__(
        self,
        folder: Path,
        image_size: int,
        teacher_size: int | None = None,
        label_size: LabelSize = "own",
    ) -> None:
        self.root = find_root(folder)
        self.image_size, self.teacher_size = image_size, teacher_size
        self.label_size = label_size
        self.have_small = False
        """Whether an image is smaller than `image_size`; known once the files were read."""
        self.val_sizes: set[tuple[int, int]] = set()
        """Width and height of validation images; known once the files were read."""
        self.have_colors = False
        """Whether a mask may have colours; known once the files were read."""
        augmented = (self.root / f"{MASKS}Aug").is_dir() and (
            self.root / LISTS / "train_aug.txt"
        ).is_file()
        masks: dict[Split, str] = {"train": f"{MASKS}Aug" if augmented else MASKS, "val": MASKS}
        lists: dict[Split, str] = {"train": "train_aug" if augmented else "train", "val": "val"}
        self.entries = {
            split: read_split(self.root, self.root / LISTS / f"{lists[split]}.txt", masks[split])
            for split in SPLITS
        }
        train = {entry.image for entry in self.entries["train"]}
        if shared := sorted(e.name for e in self.entries["val"] if e.image in train):
            raise ValueError(
                f"train and val must not share images, but {self.root / LISTS} lists "
                f"{shared[0]!r} in both"
            )

    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        """The digest of the content of every listed file, undecoded.

        Modification times are not used: they change when data is copied to another machine, and may
        not change when a mask is corrected within the clock's resolution.
        """
        listing = self.root / CLASSES
        classes = hash_file(listing) if listing.is_file() else self.root.name == VOC_FOLDER
        content: list[object] = [
            self.image_size,
            classes,
            self._hashes_of_samples,
        ]
        # What earlier releases did not read is included only where it makes a difference, so that
        # the digests of their data do not change
        if self.have_small:
            content.append("small images keep their size")
        if self.keeps_labels:
            content.append("validation labels at their own size")
        if self.classes.colors and self.have_colors:
            content.append(sorted((*color, index) for color, index in self.classes.colors.items()))
        if self.teacher_size is not None:
            content.append(f"seen at {self.teacher_size}")
        plain = tuple(read_lines(listing)) if listing.is_file() else ()
        if plain != self.classes.names:
            content.append(self.classes.names)
        return digest(content)

    @cached_property
    def _hashes_of_samples(self) -> list[list[str]]:
        return list(self._each("reading", self._hashes))

    def file_roles(self) -> Mapping[str, FileRole]:
        roles: dict[str, FileRole] = {}
        for split, _, image, mask, *_ in self._hashes_of_samples:  # validation images come last
            roles[mask] = "mask"
            roles[image] = "training image" if split == "train" else "validation image"
        return roles

    @property
    def keeps_labels(self) -> bool:
        """Whether validation samples have their masks at their own size, too."""
        were_read = bool(self._hashes_of_samples)  # which also finds the sizes
        is_resized = any(self._content(size) != size for size in self.val_sizes)
        return were_read and is_resized and self.label_size == "own"

    def as_teacher_sees(self, teacher_size: int) -> "VocFolder":
        """The same samples in more detail; what is known of the files is not read again."""
        larger = copy(self)
        larger.teacher_size = teacher_size
        vars(larger).pop("_digest", None)
        return larger

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._scan.class_names

    @property
    def notes(self) -> tuple[str, ...]:
        return self._scan.notes

    def canvas(self) -> tuple[int, int]:
        height, width = self._scan.canvas
        return self._enlarged(height), self._enlarged(width)

    def num_samples(self, split: Split) -> int:
        return len(self.entries[split])

    def sample(self, split: Split, index: int) -> Sample:
        entry, canvas = self.entries[split][index], self.canvas()
        image = read_image(entry.image, turned=entry.image not in self._scan.as_stored)
        labels = read_labels(entry.mask, turn(load_mask(entry.mask)), self.classes.colors)
        size = self._content(image.size)
        is_kept = split == "val" and self.keeps_labels
        return Sample(
            pad(np.asarray(image.resize(size, Image.Resampling.BILINEAR)), canvas, PAD_RGB),
            pad(shrink(labels, size), canvas, IGNORE),
            compress_labels(limited(labels, max(size)), size) if is_kept else None,
        )

    def _content(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height on the canvas of an image of this width and height."""
        width, height = scaled(size, self.image_size)
        return self._enlarged(width), self._enlarged(height)

    def _enlarged(self, side: int) -> int:
        """The pixels of a side of the student's image in that of the teacher."""
        return enlarged(side, self.image_size, self.teacher_size)

    def _each(self, doing: str, look: Callable[[Split, Entry], Answer]) -> Iterator[Answer]:
        """The results of `look` for every sample, in order, computed on all cores."""
        samples = [(split, entry) for split in SPLITS for entry in self.entries[split]]
        return on_all_cores(samples, doing, lambda sample: look(*sample))

    def _hashes(self, split: Split, entry: Entry) -> list[str]:
        """Split, name and SHA-256 of both files, and what else determines how they are read."""
        image, mask = (present(path).read_bytes() for path in (entry.image, entry.mask))
        image_header, mask_header = read_header(entry.image, image), read_header(entry.mask, mask)
        check_image_mode(entry.image, image_header)
        check_mask_format(entry.mask, mask_header)
        if mask_header.mode in ("P", "RGB", "RGBA"):  # several threads only ever set these
            self.have_colors = True
        if max(image_header.size) < self.image_size:
            self.have_small = True
        if split == "val":
            self.val_sizes.add(image_header.size)
        hashes = [hashlib.sha256(content).hexdigest() for content in (image, mask)]
        deep = [image_header.mode] if image_header.mode in DEEP_GREY_MODES else []
        return [split, entry.name, *hashes, *deep]

    @cached_property
    def classes(self) -> ClassList:
        """The classes in classes.txt or labelmap.txt; no names where neither exists.

        Raises:
            ValueError: one cannot be read, or both list different names.
        """
        names, colors = self.root / CLASSES, self.root / LABEL_MAP
        if not colors.is_file():
            return read_classes(names) if names.is_file() else ClassList(())
        mapped = read_classes(colors)
        if names.is_file() and (listed := read_classes(names)).names != mapped.names:
            raise ValueError(
                f"{CLASSES} and {LABEL_MAP} must list the same classes in the same order, but "
                f"{names} has {', '.join(listed.names)} and {colors} {', '.join(mapped.names)}"
            )
        return mapped

    @cached_property
    def _scan(self) -> "Scan":
        """The result of one scan of all files."""
        looks = list(self._each("checking", self._look))
        check_splits(looks, self.root)
        check_colors(looks)
        check_peaks({look.image: look.peak for look in looks if look.peak is not None})
        first_file: dict[int, Path] = {}
        for look in looks:
            for value in look.values - {IGNORE}:
                first_file.setdefault(value, look.mask)
        names = class_names(self.root, self.classes.names, first_file)
        widths, heights = zip(*(scaled(look.size, self.image_size) for look in looks), strict=True)
        return Scan(
            names,
            (max(heights), max(widths)),
            images_as_stored(looks),
            tuple(notes_on(looks, names)),
        )

    def _look(self, split: Split, entry: Entry) -> SampleInfo:
        image, mask = load(present(entry.image)), load_mask(present(entry.mask))
        fit, mask = fit_of(entry, image, mask), turn(mask)
        labels = read_labels(entry.mask, mask, self.classes.colors)
        values = values_of(labels)
        by_color = is_by_color(mask, self.classes.colors)
        check_image_mode(entry.image, image)
        return SampleInfo(
            split=split,
            image=entry.image,
            mask=entry.mask,
            size=mask.size,
            fit=fit,
            values=values,
            kept=values_of(shrink(labels, scaled(mask.size, self.image_size))),
            colors={} if by_color else used_colors(mask, values),
            by_color=by_color,
            is_flat=is_flat(to_rgb(image)),
            peak=peak_of(image),
        )


def on_all_cores(
    items: Sequence[Item], doing: str, look: Callable[[Item], Answer]
) -> Iterator[Answer]:
    """The results of `look` for every item, in order; `doing` names it where progress is shown."""
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(look, item) for item in items]
        try:
            for answer in track(answers, doing):
                yield answer.result()
        finally:
            pool.shutdown(cancel_futures=True)


class Scan(NamedTuple):
    """Facts about all files of a folder; `canvas` is (height, width) in pixels."""

    class_names: tuple[str, ...]
    canvas: tuple[int, int]
    as_stored: frozenset[Path]
    notes: tuple[str, ...]


def fit_of(entry: Entry, image: Image.Image, mask: Image.Image) -> Fit:
    """How an image fits its mask.

    Raises:
        ValueError: their sizes differ, whether the image is turned or not.
    """
    orientation, turned = orientation_of(image), image.size
    if orientation >= FIRST_SWAPPED:
        turned = (image.height, image.width)
    if (own := orientation_of(mask)) != 1:
        if own != orientation or mask.size != image.size:
            raise ValueError(
                "a mask must have no EXIF orientation, or its image's and its size, but "
                f"{entry.mask} has {own} and {mask.size}, {entry.image} {orientation} and "
                f"{image.size}"
            )
        return "turned"
    if mask.size not in (image.size, turned):
        also = f", {turned} as its EXIF orientation turns it," if turned != image.size else ""
        raise ValueError(
            f"image and mask must have one size, but {entry.image} is {image.size}{also} and "
            f"{entry.mask} is {mask.size} (width, height)"
        )
    if orientation == 1:
        return "plain"
    if image.size == turned:
        return "either"
    return "turned" if mask.size == turned else "stored"


def is_flat(image: Image.Image) -> bool:
    """Whether all pixels of an image in RGB have one colour."""
    pixels = np.asarray(image)
    return bool((pixels == pixels[0, 0]).all())


def values_of(labels: NDArray[np.uint8]) -> frozenset[int]:
    """The values that occur in a mask."""
    return frozenset(np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist())


def shrink(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask at another size (width, height), by the nearest pixel."""
    return np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))


def limited(labels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A mask whose longest side is at most `LARGEST_LABELS`, or `side` where this is more."""
    height, width = labels.shape
    return shrink(labels, scaled((width, height), max(LARGEST_LABELS, side)))


def find_root(folder: Path) -> Path:
    """The folder with VOC's three folders: the given one, or one at most two levels below it."""
    if not folder.is_dir():
        raise ValueError(f"--data must be a folder that exists, but got {folder}")
    candidates = [folder, *sorted(folder.glob("*")), *sorted(folder.glob("*/*"))]
    wanted = (LISTS, IMAGES, MASKS)
    roots = [path for path in candidates if all((path / part).is_dir() for part in wanted)]
    if not roots:
        raise ValueError(
            f"--data must be a folder that holds {', '.join(wanted)}, itself or one or two levels "
            f"down, but {folder} does not: {CONVERT.format(folder)}"
        )
    if len(roots) > 1:
        raise ValueError(
            f"--data must be a folder with one data set, but {folder} holds {roots[0]} and "
            f"{roots[1]}: name one of them"
        )
    return roots[0]


def present(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"every listed image must exist, but there is no {path}")
    return path


def class_names(root: Path, names: tuple[str, ...], first_file: dict[int, Path]) -> tuple[str, ...]:
    """The listed class names, or else numbered names for the values that the masks use.

    `first_file` maps each value that occurs to a mask.
    """
    highest = max(first_file)
    if names and highest >= len(names):
        listing = root / (CLASSES if (root / CLASSES).is_file() else LABEL_MAP)
        raise ValueError(
            f"mask values must be below the {len(names)} classes of {listing}, or {IGNORE}, but "
            f"{first_file[highest]} holds {highest}"
        )
    if not names:
        missing = sorted(set(range(highest)) - set(first_file))
        if missing:
            raise ValueError(
                f"without {root / CLASSES}, mask values must be 0, 1, 2, ... without gaps, or "
                f"{IGNORE}, but no mask holds {missing[0]} and {first_file[highest]} holds "
                f"{highest}; python -m trainables.convert --values renumbers them"
            )
        names = tuple(f"class {index}" for index in range(highest + 1))
        if root.name == VOC_FOLDER and len(names) == len(VOC_CLASSES):
            names = VOC_CLASSES
    if len(names) > IGNORE:
        raise ValueError(f"a data set must have 2 to {IGNORE} classes, but {root} has {len(names)}")
    return names


def scaled(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """`size` in its aspect ratio, with a longest side of `longest` at most."""
    factor = min(1.0, longest / max(size))
    width, height = (max(1, round(side * factor)) for side in size)
    return width, height


def enlarged(side: int, image_size: int, teacher_size: int | None) -> int:
    """The pixels of a side where images of `image_size` are seen at `teacher_size`."""
    return round(side * (teacher_size or image_size) / image_size)


def pad(
    array: NDArray[np.uint8], canvas: tuple[int, int], fill: int | tuple[int, int, int]
) -> NDArray[np.uint8]:
    padded = np.empty((*canvas, *array.shape[2:]), np.uint8)
    padded[:] = fill
    padded[: array.shape[0], : array.shape[1]] = array
    return padded
