"""How often each class occurs in the labels of a split."""

import numpy as np

from trainables.core.config_base import FrozenConfig
from trainables.core.terminal import track
from trainables.data.arrow_table import ArrowTable


class LabelCounts(FrozenConfig):
    """Labelled pixels by class: of the class itself, and of all images that hold it."""

    pixels: tuple[int, ...]
    pixels_of_images: tuple[int, ...]


def count_by_class(split: ArrowTable, num_classes: int) -> LabelCounts:
    """Counts the masks of a split; ignored pixels do not count."""
    pixels, of_images = np.zeros((2, num_classes), np.int64)
    for masks in track(split.chunks["mask"], "counting labels", "chunk"):
        for mask in masks:
            counts = np.bincount(mask.ravel(), minlength=256)[:num_classes]
            pixels += counts
            of_images[counts > 0] += counts.sum()
    return LabelCounts(pixels=tuple(pixels.tolist()), pixels_of_images=tuple(of_images.tolist()))
