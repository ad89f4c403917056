"""The common representation of an export, which each format's reader returns."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trainables.data.image_file import Labels


class Drawing(NamedTuple):
    """The class of each pixel, and how many pixels are ignored because two classes overlap."""

    labels: Labels
    num_overlapping: int = 0


class LabelledImage(NamedTuple):
    """An image, and a function that draws its mask from `source`; `name` has no ending."""

    name: str
    image: Path
    source: Path
    draw: Callable[[], Drawing]


class Export(NamedTuple):
    """Labelled images in groups, which are named as the splits of the source.

    `left_out` lists what is not converted, by reason; `accounted` are files that were read, or left
    out with their images; `notes` are lines for the report.
    """

    described: str
    class_names: tuple[str, ...]
    groups: Mapping[str, Sequence[LabelledImage]]
    left_out: Mapping[str, Sequence[Path | str]]
    accounted: frozenset[Path]
    notes: tuple[str, ...] = ()
