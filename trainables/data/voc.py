"""Labelled images in the layout of PASCAL VOC (Everingham et al. 2010)."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trainables.data.labels import IGNORE, VOC_CLASSES
from trainables.data.source import SPLITS, Sample, Split
from trainables.files import hash_file
from trainables.frozen import digest
from trainables.progress import track

Answer = TypeVar("Answer")

LISTS, IMAGES, MASKS = "ImageSets/Segmentation", "JPEGImages", "SegmentationClass"
CLASSES, VOC_FOLDER = "classes.txt", "VOC2012"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
PAD_RGB = (124, 116, 104)  # ImageNet's mean, 0 after normalisation


class VocFolder:
    """A folder in VOC layout, its samples scaled to a longest side of `image_size` pixels.

    With SBD's `SegmentationClassAug` and `train_aug.txt` (Hariharan et al. 2011) the training split
    is the augmented one. Before the classes are named or a sample is given, every file is looked
    at, so that no trial meets a bad one.

    Raises:
        ValueError: the folder breaks a rule of the layout; the message names rule, value and file.
    """

    def __init__(self, folder: Path, image_size: int) -> None:
        self.root = find_root(folder)
        self.image_size = image_size
        augmented = (self.root / f"{MASKS}Aug").is_dir() and (
            self.root / LISTS / "train_aug.txt"
        ).is_file()
        self.masks: dict[Split, str] = {
            "train": f"{MASKS}Aug" if augmented else MASKS,
            "val": MASKS,
        }
        lists: dict[Split, str] = {"train": "train_aug" if augmented else "train", "val": "val"}
        self.names = {
            split: read_list(self.root / LISTS / f"{lists[split]}.txt") for split in SPLITS
        }
        if shared := sorted(set(self.names["train"]) & set(self.names["val"])):
            raise ValueError(
                f"train and val must not share images, but {self.root / LISTS} lists "
                f"{shared[0]!r} in both"
            )

    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        """Over the content of every listed file, undecoded.

        Not over modification times: they change when data is copied to another machine, and stay
        when a mask is mended within the clock's resolution.
        """
        listing = self.root / CLASSES
        classes = hash_file(listing) if listing.is_file() else self.root.name == VOC_FOLDER
        return digest([self.image_size, classes, list(self._each("reading", self._hashes))])

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._scanned[0]

    def canvas(self) -> tuple[int, int]:
        return self._scanned[1]

    def num_samples(self, split: Split) -> int:
        return len(self.names[split])

    def sample(self, split: Split, index: int) -> Sample:
        image_path, mask_path = self._files(split, self.names[split][index])
        image, mask = open_image(image_path).convert("RGB"), open_mask(mask_path)
        size, canvas = scaled(image.size, self.image_size), self.canvas()
        return Sample(
            pad(np.asarray(image.resize(size, Image.Resampling.BILINEAR)), canvas, PAD_RGB),
            pad(np.asarray(mask.resize(size, Image.Resampling.NEAREST)), canvas, IGNORE),
        )

    def _each(self, doing: str, look: Callable[[Split, str], Answer]) -> Iterator[Answer]:
        """What `look` says of every sample, in order; all cores look."""
        samples = [(split, name) for split in SPLITS for name in self.names[split]]
        with ThreadPoolExecutor() as pool:
            answers = [pool.submit(look, split, name) for split, name in samples]
            try:
                for answer in track(answers, doing):
                    yield answer.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _hashes(self, split: Split, name: str) -> list[str]:
        image, mask = self._files(split, name)
        return [split, name, hash_file(present(image)), hash_file(present(mask))]

    def _files(self, split: Split, name: str) -> tuple[Path, Path]:
        images = [self.root / IMAGES / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES]
        image = next((path for path in images if path.is_file()), images[0])
        return image, self.root / self.masks[split] / f"{name}.png"

    @cached_property
    def _scanned(self) -> tuple[tuple[str, ...], tuple[int, int]]:
        """Class names and canvas, from one look at everything."""
        first_file: dict[int, Path] = {}
        labelled: set[Split] = set()
        heights, widths = set(), set()
        for look in self._each("checking", self._look):
            width, height = scaled(look.size, self.image_size)
            heights.add(height)
            widths.add(width)
            for value in look.values:
                first_file.setdefault(value, look.mask)
            if look.values - {IGNORE}:
                labelled.add(look.split)
        for split in SPLITS:
            if split not in labelled:
                raise ValueError(
                    f"a split must have a labelled pixel, but every mask that {split} lists in "
                    f"{self.root / self.masks[split]} holds nothing but {IGNORE}"
                )
        first_file.pop(IGNORE, None)
        return class_names(self.root, first_file), (max(heights), max(widths))

    def _look(self, split: Split, name: str) -> "Look":
        image_path, mask_path = self._files(split, name)
        image, mask = open_image(image_path), open_mask(mask_path)
        if image.size != mask.size:
            raise ValueError(
                f"image and mask must have one size, but {image_path} is {image.size} and "
                f"{mask_path} is {mask.size} (width, height)"
            )
        values = {int(value) for value in np.unique(np.asarray(mask))}
        return Look(split, mask_path, image.size, values)


class Look(NamedTuple):
    """What a sample's files hold: size as (width, height), and the mask's values."""

    split: Split
    mask: Path
    size: tuple[int, int]
    values: set[int]


def find_root(folder: Path) -> Path:
    """The folder itself, or the one below it (two levels at most), that has VOC's three folders."""
    if not folder.is_dir():
        raise ValueError(f"the data folder must exist, but got {folder}")
    candidates = [folder, *sorted(folder.glob("*")), *sorted(folder.glob("*/*"))]
    wanted = (LISTS, IMAGES, MASKS)
    roots = [path for path in candidates if all((path / part).is_dir() for part in wanted)]
    if not roots:
        raise ValueError(
            f"a data folder must hold {', '.join(wanted)}, itself or one or two levels down, but "
            f"{folder} does not"
        )
    if len(roots) > 1:
        raise ValueError(
            f"a data folder must hold one data set, but {folder} holds {roots[0]} and {roots[1]}: "
            "name one of them"
        )
    return roots[0]


def read_list(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"the list of a split must exist, but there is no {path}")
    names = read_lines(path)
    if not names:
        raise ValueError(f"a split must list at least one image, but {path} is empty")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"a split must list an image once, but {path} lists {twice!r} twice")
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise ValueError(f"a listed image must lie in its folder, but {path} lists {name!r}")
    return names


def read_lines(path: Path) -> list[str]:
    """The lines of a text that are not empty."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"a list must be text in UTF-8, but {path} is not: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def present(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"every listed image must exist, but there is no {path}")
    return path


def open_image(path: Path) -> Image.Image:
    """The image, turned as its EXIF data says: masks are drawn on what people see."""
    try:
        image = ImageOps.exif_transpose(Image.open(present(path)))
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"every file must be a readable image, but {path} is not: {error}"
        ) from error
    return image


def open_mask(path: Path) -> Image.Image:
    mask = open_image(path)
    if mask.mode not in ("P", "L"):
        raise ValueError(
            f"a mask must hold one class index per pixel (8-bit palette or grey), but {path} is "
            f"{mask.mode}"
        )
    return mask


def class_names(root: Path, first_file: dict[int, Path]) -> tuple[str, ...]:
    """From classes.txt, else as many as the masks use; `first_file` maps each value to a mask."""
    listing = root / CLASSES
    highest = max(first_file, default=-1)
    if listing.is_file():
        names = tuple(read_lines(listing))
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"classes must have different names, but {listing} has {twice!r} twice"
            )
        if highest >= len(names):
            raise ValueError(
                f"mask values must be below the {len(names)} classes of {listing}, or 255, but "
                f"{first_file[highest]} holds {highest}"
            )
    else:
        missing = sorted(set(range(highest)) - set(first_file))
        if missing:
            raise ValueError(
                f"without {listing}, mask values must be 0, 1, 2, ... without gaps, or 255, but no "
                f"mask holds {missing[0]} and {first_file[highest]} holds {highest}"
            )
        names = tuple(f"class {index}" for index in range(highest + 1))
        if root.name == VOC_FOLDER and len(names) == len(VOC_CLASSES):
            names = VOC_CLASSES
    if not 2 <= len(names) <= IGNORE:
        raise ValueError(f"a data set must have 2 to {IGNORE} classes, but {root} has {len(names)}")
    return names


def scaled(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """`size` in its aspect ratio, with a longest side of `longest`."""
    factor = longest / max(size)
    width, height = (max(1, round(side * factor)) for side in size)
    return width, height


def pad(
    array: NDArray[np.uint8], canvas: tuple[int, int], fill: int | tuple[int, int, int]
) -> NDArray[np.uint8]:
    padded = np.empty((*canvas, *array.shape[2:]), np.uint8)
    padded[:] = fill
    padded[: array.shape[0], : array.shape[1]] = array
    return padded
