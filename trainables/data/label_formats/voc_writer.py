"""Writes labelled images in VOC layout."""

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.core.files import whole_folder
from trainables.core.terminal import track
from trainables.data.base import SPLITS, Split
from trainables.data.class_list import from_names
from trainables.data.image_file import check_image_mode, load
from trainables.data.label_formats.export import LabelledImage
from trainables.data.label_formats.splits import Parts
from trainables.data.labels import IGNORE, voc_palette
from trainables.data.split_list import IMAGES, Entry
from trainables.data.voc import CLASSES, LISTS, MASKS, fit_of

NUM_VALUES = 256


class Contents(NamedTuple):
    """Statistics of the masks of a split: pixels and images (256,) by value."""

    num_images: int
    pixels: NDArray[np.int64]
    images: NDArray[np.int64]
    num_overlapping: int


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `path` at the end, and is removed after an error.

    Raises:
        ValueError: there is something at `path`.
        DiskFull: the temporary folder is removed then, too.
    """
    path = path.resolve()
    check_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(path) as aside:
        yield aside


def check_free(path: Path) -> None:
    """Raises ValueError where the path exists and is not an empty folder."""
    if path.is_dir():
        first = next(path.iterdir(), None)
        if first is not None:
            raise ValueError(f"--out must be a new or empty folder, but {path} has {first.name}")
    elif path.exists():
        raise ValueError(f"--out must be a new or empty folder, but {path} is a file")


def check_classes(names: Sequence[str], origin: Path) -> None:
    """Raises ValueError where class names do not fit into a list."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"classes must have different names, but {origin} has {twice!r} twice")
    if not 2 <= len(names) <= IGNORE:
        raise ValueError(
            f"a data set must have 2 to {IGNORE} classes, but {origin} has {len(names)}"
        )
    if from_names(origin, names) != tuple(names):
        raise ValueError(
            f"class names must not all begin with numbers, or be names of what is ignored, but "
            f"{origin} has {', '.join(names)}"
        )


def write_voc(folder: Path, class_names: Sequence[str], parts: Parts) -> dict[Split, Contents]:
    """Writes the data set into an empty folder and gives the statistics of the masks.

    Raises:
        ValueError: an image or a mask is unreadable, or they do not fit each other.
    """
    (folder / LISTS).mkdir(parents=True)
    (folder / CLASSES).write_text("".join(f"{name}\n" for name in class_names), "utf-8")
    contents = {}
    for split in SPLITS:
        names = "".join(f"{image.name}\n" for image in parts[split])
        (folder / LISTS / f"{split}.txt").write_text(names, "utf-8")
        contents[split] = write_images(folder, len(class_names), split, parts[split])
    return contents


def write_images(
    folder: Path, num_classes: int, split: Split, images: Sequence[LabelledImage]
) -> Contents:
    """Writes images and masks, on all cores; each core holds one sample in memory."""
    pixels, occurrences = (np.zeros(NUM_VALUES, np.int64) for _ in range(2))
    num_overlapping = 0
    with ThreadPoolExecutor() as pool:
        write = partial(write_image, folder, num_classes)
        written = [pool.submit(write, image) for image in images]
        try:
            for future in track(written, f"converting {split}"):
                counts, overlapping = future.result()
                pixels += counts
                occurrences += counts > 0
                num_overlapping += overlapping
        finally:
            pool.shutdown(cancel_futures=True)
    return Contents(len(images), pixels, occurrences, num_overlapping)


def write_image(
    folder: Path, num_classes: int, labelled: LabelledImage
) -> tuple[NDArray[np.int64], int]:
    """Writes an image and its mask; gives pixels (256,) by value, and those of several classes.

    Raises:
        ValueError: one is unreadable, or they do not fit each other.
    """
    image = load(labelled.image)
    check_image_mode(labelled.image, image)
    labels, num_overlapping = labelled.draw()
    counts = np.bincount(labels.ravel(), minlength=NUM_VALUES)
    foreign = np.flatnonzero(counts[num_classes:IGNORE])
    if foreign.size:
        raise ValueError(
            f"mask values must be below the number of classes, {num_classes}, or {IGNORE}, but "
            f"{labelled.source} holds {num_classes + foreign[0]}"
        )
    mask = Image.fromarray(labels)
    mask.putpalette(voc_palette().tobytes())
    fit_of(Entry(labelled.name, labelled.image, labelled.source), image, mask)
    target = folder / IMAGES / f"{labelled.name}{labelled.image.suffix}"
    mask_file = folder / MASKS / f"{labelled.name}.png"
    for path in (target, mask_file):
        path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(labelled.image, target)
    mask.save(mask_file)
    return counts, num_overlapping
