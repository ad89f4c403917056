"""Reads masks whose values or colours are mapped to classes."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.data.class_list import ClassList
from trainables.data.dataset_checks import MaskColors
from trainables.data.image_file import (
    DEEP_GREY_MODES,
    STEP,
    Labels,
    is_by_color,
    load_mask,
    orientation_of,
    read_labels,
    used_colors,
    without_equal_channels,
)
from trainables.data.label_formats.pairs import ReadMask
from trainables.data.labels import IGNORE

MAX_VALUE = 65535
IGNORED = "ignore"
"""The class name of values that are ignored in training and evaluation."""
VALUE_MODES = ("1", "L", "P", "I", *DEEP_GREY_MODES)
"""Pillow's modes of masks with one whole number per pixel."""
MOST_SHOWN = 6
UNKNOWN = -1


class Values(NamedTuple):
    """Class names in the order of their indices, and the index of each value of a mask."""

    names: tuple[str, ...]
    indices: Mapping[int, int]
    origin: str


ONE_BIT = Values(("background", "foreground"), {0: 0, 1: 1}, "a 1-bit mask")


def parse_values(text: str) -> Values:
    """The values of a text such as `0=background,255=crack`.

    Raises:
        ValueError: the text is malformed.
    """
    entries = [entry.partition("=") for entry in text.split(",")]
    for value, _, name in entries:
        if not value.strip().isdecimal() or not name.strip():
            raise ValueError(
                "--values must be a list such as 0=background,255=crack, but got "
                f"{value + (name and '=' + name)!r}"
            )
    return make_values([(int(value), name.strip()) for value, _, name in entries], "--values")


def make_values(entries: Iterable[tuple[int, str]], origin: str) -> Values:
    """Values in the order given; those named `ignore` are ignored.

    Raises:
        ValueError: a value is too large, or occurs twice.
    """
    names: list[str] = []
    indices: dict[int, int] = {}
    for value, name in entries:
        if value > MAX_VALUE:
            raise ValueError(f"values must be 0 to {MAX_VALUE}, but {origin} has {value}")
        if value in indices:
            raise ValueError(f"a value must have one class, but {origin} has {value} twice")
        indices[value] = IGNORE if name == IGNORED else len(names)
        if name != IGNORED:
            names.append(name)
    return Values(tuple(names), indices, origin)


def by_values(values: Values) -> ReadMask:
    return partial(read_valued, values, MaskColors())


def by_colors(classes: ClassList, origin: Path) -> ReadMask:
    return partial(read_colored, classes, origin)


def load_upright(path: Path) -> Image.Image:
    """A mask without an EXIF orientation, which the rewritten mask would lose.

    Raises:
        ValueError: it has an EXIF orientation, or cannot be read.
    """
    image = load_mask(path)
    if (orientation := orientation_of(image)) != 1:
        raise ValueError(f"a mask must have no EXIF orientation, but {path} has {orientation}")
    return image


def read_valued(values: Values, seen: MaskColors, path: Path) -> Labels:
    """The class indices of a mask with one value per pixel.

    Raises:
        ValueError: it has colours, a value of no class, or a palette that contradicts one `seen`.
    """
    image = without_equal_channels(load_upright(path))
    if image.mode not in VALUE_MODES:
        raise ValueError(
            f"a mask must hold one value per pixel (1-bit, grey or palette), but {path} is "
            f"{image.mode}: colour masks need a labelmap.txt in the data folder, with lines of "
            "NAME:RED,GREEN,BLUE::"
        )
    pixels = pixels_of(image)
    held = np.unique(pixels).tolist()
    seen.see(path, held, used_colors(image, held))
    return indices_of(pixels, values, path)


def read_one_bit(path: Path) -> Labels:
    """The class indices of a mask of one bit per pixel.

    Raises:
        ValueError: it has more than one bit per pixel.
    """
    image = load_upright(path)
    if image.mode in VALUE_MODES[1:]:
        held = np.unique(pixels_of(image)).tolist()
        more = ", ..." if len(held) > MOST_SHOWN else ""
        raise ValueError(
            f"masks other than 1-bit ones must have their values named, but {path} is "
            f"{image.mode} and holds {', '.join(map(str, held[:MOST_SHOWN]))}{more}: say "
            "--values VALUE=NAME,VALUE=NAME,..."
        )
    return read_valued(ONE_BIT, MaskColors(), path)


def read_colored(classes: ClassList, origin: Path, path: Path) -> Labels:
    """The class indices of a mask in the colours of a label map.

    Raises:
        ValueError: a colour belongs to no class.
    """
    image = load_upright(path)
    if image.mode not in ("1", "L", "P", "RGB"):
        raise ValueError(f"a mask must be RGB, palette or 8-bit grey, but {path} is {image.mode}")
    if image.mode == "RGB" and classes.colors is None:
        raise ValueError(
            f"a label map must give each class a colour, but {origin} does not, and {path} is RGB"
        )
    if is_by_color(image, classes.colors) is False and classes.colors is not None:
        raise ValueError(
            f"masks must be in the colours of {origin}, but {path} holds values: leave the label "
            "map out and say --values"
        )
    return read_labels(path, image, classes.colors)


def pixels_of(image: Image.Image) -> NDArray[Any]:
    pixels = np.asarray(image)
    return pixels.astype(np.uint8) if image.mode == "1" else pixels // image.info.get(STEP, 1)


def indices_of(pixels: NDArray[Any], values: Values, path: Path) -> Labels:
    table = np.full(MAX_VALUE + 1, UNKNOWN, np.int16)
    for value, index in values.indices.items():
        table[value] = index
    wide = pixels.astype(np.int32)
    indices: NDArray[np.int16] = table[wide.clip(0, MAX_VALUE)]
    indices[(wide < 0) | (wide > MAX_VALUE)] = UNKNOWN
    if (indices == UNKNOWN).any():
        raise ValueError(
            f"every value of a mask must be that of a class, but {path} holds "
            f"{pixels[indices == UNKNOWN].min()}, which {values.origin} does not list"
        )
    return indices.astype(np.uint8)
