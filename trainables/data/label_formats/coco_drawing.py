"""COCO's annotations drawn as a mask of class indices."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.label_formats.coco_file import CocoImage, Runs, Segmentation
from trainables.data.label_formats.export import Drawing
from trainables.data.labels import IGNORE

MIN_NUMBERS = 6
"""Minimum length of a polygon; fewer numbers are no area, and pycocotools reads four as a box."""
MOST_BITS = 35
"""Maximum bits of a run length."""
FIRST_CHARACTER, VALUE_BITS, SIGN_BIT, MORE_BIT = ord("0"), 5, 16, 32
"""Constants of the encoding of packed run lengths."""

Outline = tuple[int, Segmentation]
"""A class index other than 0, and the area of the class."""
Encoded = Mapping[str, object]
"""An area as pycocotools stores it."""


def has_area(segmentation: Segmentation | None) -> bool:
    """Whether an annotation has an area, rather than a box, points or a line."""
    if isinstance(segmentation, Runs):
        return True
    return any(len(polygon) >= MIN_NUMBERS for polygon in segmentation or [])


def draw_outlines(file: Path, image: CocoImage, outlines: Sequence[Outline]) -> Drawing:
    """The mask of an image; pixels of two different classes are ignored, the others background.

    Raises:
        ValueError: an outline does not fit the image.
    """
    from pycocotools import mask  # an optional dependency of this format

    encoded: dict[int, list[Encoded]] = {}
    for index, segmentation in outlines:
        try:
            objects = checked(segmentation, image.height, image.width)
        except ValueError as error:
            raise ValueError(
                f"an annotation must fit its image, but {file} has one of {image.file_name!r} "
                f"({image.width} x {image.height} pixels) with {error}"
            ) from error
        encoded.setdefault(index, []).extend(mask.frPyObjects(objects, image.height, image.width))
    labels = np.zeros((image.height, image.width), np.uint8)
    overlap = np.zeros(labels.shape, np.bool_)
    for index, areas in encoded.items():
        area = mask.decode(mask.merge(areas)).astype(np.bool_)
        overlap |= area & (labels != 0)
        labels[area] = index
    labels[overlap] = IGNORE
    return Drawing(labels, int(overlap.sum()))


def checked(segmentation: Segmentation, height: int, width: int) -> list[Any]:
    """The parts of an object in the format of pycocotools.

    Raises:
        ValueError: one does not fit the image.
    """
    if isinstance(segmentation, Runs):
        return [{"size": [height, width], "counts": checked_runs(segmentation, height, width)}]
    polygons = [polygon for polygon in segmentation if len(polygon) >= MIN_NUMBERS]
    for polygon in polygons:
        check_polygon(polygon, height, width)
    return polygons


def check_polygon(polygon: Sequence[float], height: int, width: int) -> None:
    """Raises ValueError where a polygon does not fit its image.

    Points may lie outside the image, since augmentation moves them, but no farther than its size.
    """
    if len(polygon) % 2:
        raise ValueError(f"a polygon of {len(polygon)} numbers, which are no pairs of x and y")
    for numbers, size in ((polygon[::2], width), (polygon[1::2], height)):
        far = [number for number in numbers if not -size <= number <= 2 * size]
        if far:
            raise ValueError(f"a point at {far[0]:g}, far outside")


def checked_runs(runs: Runs, height: int, width: int) -> list[int]:
    """The run lengths, checked to fill the image.

    pycocotools does not check them: it reads and writes beyond its memory where they are wrong.

    Raises:
        ValueError: they do not fill the image.
    """
    if runs.size != (height, width):
        raise ValueError(f"a run-length mask of {runs.size[1]} x {runs.size[0]} pixels")
    counts = unpack(runs.counts) if isinstance(runs.counts, str) else runs.counts
    if min(counts, default=0) < 0 or sum(counts) != math.prod(runs.size):
        raise ValueError(f"run lengths of {sum(counts)} pixels")
    return counts


def unpack(text: str) -> list[int]:
    """Run lengths from COCO's text: five bits a character, from the fourth on as differences.

    Raises:
        ValueError: the text is malformed.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - FIRST_CHARACTER
        if not 0 <= bits < 2 * MORE_BIT:
            raise ValueError(f"run lengths that contain {character!r}")
        value |= bits % MORE_BIT << shift
        shift += VALUE_BITS
        if shift > MOST_BITS:
            raise ValueError("a run length beyond all images")
        if bits & MORE_BIT:
            continue
        if bits & SIGN_BIT:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("run lengths that are cut off")
    return counts
