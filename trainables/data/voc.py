"""Labelled images in the layout of PASCAL VOC (Everingham et al. 2010)."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.data.labels import IGNORE, VOC_CLASSES
from trainables.data.source import SPLITS, Sample, Split
from trainables.frozen import digest

LISTS, IMAGES, MASKS = "ImageSets/Segmentation", "JPEGImages", "SegmentationClass"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
PAD_RGB = (124, 116, 104)  # ImageNet's mean, 0 after normalisation


class VocFolder:
    """A folder in VOC layout, its samples scaled to a longest side of `image_size` pixels.

    With SBD's `SegmentationClassAug` and `train_aug.txt` (Hariharan et al. 2011) the training split
    is the augmented one. Every file is looked at here, so that no trial meets a bad one.

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
        self.class_names = self._scan()

    def digest(self) -> str:
        """Over the content of every listed file: modification times change when data is copied."""
        parts = [
            [split, name, *(hash_file(path) for path in self._files(split, name))]
            for split in SPLITS
            for name in self.names[split]
        ]
        return digest([self.image_size, self.class_names, parts])

    def canvas(self) -> tuple[int, int]:
        return self._canvas

    def samples(self, split: Split) -> Iterator[Sample]:
        for name in self.names[split]:
            image_path, mask_path = self._files(split, name)
            image, mask = open_image(image_path).convert("RGB"), open_mask(mask_path)
            size = scaled(image.size, self.image_size)
            yield Sample(
                pad(
                    np.asarray(image.resize(size, Image.Resampling.BILINEAR)), self._canvas, PAD_RGB
                ),
                pad(np.asarray(mask.resize(size, Image.Resampling.NEAREST)), self._canvas, IGNORE),
            )

    def _files(self, split: Split, name: str) -> tuple[Path, Path]:
        images = [self.root / IMAGES / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES]
        image = next((path for path in images if path.is_file()), images[0])
        return image, self.root / self.masks[split] / f"{name}.png"

    def _scan(self) -> tuple[str, ...]:
        first_file: dict[int, Path] = {}
        sizes = []
        for split in SPLITS:
            labelled = False
            for name in self.names[split]:
                image_path, mask_path = self._files(split, name)
                image, mask = open_image(image_path), open_mask(mask_path)
                if image.size != mask.size:
                    raise ValueError(
                        f"image and mask must have one size, but {image_path} is {image.size} and "
                        f"{mask_path} is {mask.size} (width, height)"
                    )
                sizes.append(scaled(image.size, self.image_size))
                for value in np.unique(np.asarray(mask)):
                    first_file.setdefault(int(value), mask_path)
                    labelled |= int(value) != IGNORE
            if not labelled:
                raise ValueError(
                    f"a split must have a labelled pixel, but every mask that {split} lists in "
                    f"{self.root / self.masks[split]} holds nothing but {IGNORE}"
                )
        first_file.pop(IGNORE, None)
        self._canvas = max(height for _, height in sizes), max(width for width, _ in sizes)
        return class_names(self.root, first_file)


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
    try:
        names = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"a list must be text in UTF-8, but {path} is not: {error}") from error
    if not names:
        raise ValueError(f"a split must list at least one image, but {path} is empty")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"a split must list an image once, but {path} lists {twice!r} twice")
    return names


def open_image(path: Path) -> Image.Image:
    if not path.is_file():
        raise ValueError(f"every listed image must exist, but there is no {path}")
    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
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
    listing = root / "classes.txt"
    highest = max(first_file, default=-1)
    if listing.is_file():
        names = tuple(line.strip() for line in listing.read_text().splitlines() if line.strip())
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
        if root.name == "VOC2012" and len(names) == len(VOC_CLASSES):
            names = VOC_CLASSES
    if len(names) < 2:
        raise ValueError(f"a data set must have at least 2 classes, but {root} has {len(names)}")
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


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
