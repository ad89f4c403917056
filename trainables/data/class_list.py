"""Lists of class names, as people write them and as labelling tools export them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trainables.data.image_file import Color
from trainables.data.labels import IGNORE

LABEL_MAP_LINE = re.compile(r"([^:]+):(?:(\d+),(\d+),(\d+))?:[^:]*:[^:]*")
NUMBERED_LINE = re.compile(r"(\d+)\s*[:;,\t ]\s*(\S.*)")
IGNORED_NAMES = ("__ignore__", "ignored")
"""Names that labelme and CVAT give pixels to be ignored in training and evaluation."""


class ClassList(NamedTuple):
    """Class names in the order of their indices, and the class of each colour if a list says it."""

    names: tuple[str, ...]
    colors: Mapping[Color, int] | None = None


def read_classes(path: Path) -> ClassList:
    """The classes that a file lists.

    One name a line; labelme's `labels.txt`, which begins with `__ignore__`; or CVAT's
    `labelmap.txt`, with lines of `name:red,green,blue:parts:actions`.

    Raises:
        ValueError: a line cannot be a class name, or names or colours are there twice.
    """
    lines = read_lines(path)
    entries = [line for line in lines if not line.startswith("#")]
    matches = [LABEL_MAP_LINE.fullmatch(line) for line in entries]
    if entries and all(matches):
        classes = from_label_map(path, [match for match in matches if match])
    else:
        classes = ClassList(from_names(path, lines))
    if len(set(classes.names)) < len(classes.names):
        twice = next(name for name in classes.names if classes.names.count(name) > 1)
        raise ValueError(f"classes must have different names, but {path} has {twice!r} twice")
    return classes


def from_label_map(path: Path, matches: Sequence[re.Match[str]]) -> ClassList:
    names: list[str] = []
    colors: dict[Color, int] = {}
    for match in matches:
        name = match[1].strip()
        index = IGNORE if name in IGNORED_NAMES else len(names)
        if index != IGNORE:
            names.append(name)
        if match[2] is None:
            continue
        color = (int(match[2]), int(match[3]), int(match[4]))
        if max(color) > 255:
            raise ValueError(f"a colour must have values of 0 to 255, but {path} has {match[0]!r}")
        if color in colors:
            raise ValueError(f"classes must have different colours, but {path} has {color} twice")
        colors[color] = index
    is_complete = len(set(colors.values()) - {IGNORE}) == len(names)
    return ClassList(tuple(names), colors if is_complete else None)


def from_names(path: Path, lines: Sequence[str]) -> tuple[str, ...]:
    if not lines:
        raise ValueError(f"a list of classes must hold names, but {path} is empty")
    names = [line for line in lines if line not in IGNORED_NAMES[:1]]
    if len(names) < len(lines) and lines[0] not in IGNORED_NAMES:
        raise ValueError(f"{IGNORED_NAMES[0]} must be the first line, but {path} begins otherwise")
    for name in names:
        if name[0] in "#{}[]" or not name.isprintable():
            raise ValueError(
                f"a list of classes must hold one name a line, but {path} holds {name!r}"
            )
    if len(names) > 1 and all(re.fullmatch(r".+,\s*\d+", name) for name in names[1:]):
        raise ValueError(
            f"a list of classes must hold names alone, one a line, but {path} holds {names[1]!r}"
        )
    numbered = [NUMBERED_LINE.fullmatch(name) for name in names]
    if names and all(numbered):
        numbers = [int(match[1]) for match in numbered if match]
        if numbers != list(range(len(numbers))):
            raise ValueError(
                f"numbered classes must be 0, 1, 2, ... in this order, but {path} has {numbers}"
            )
        return tuple(match[2] for match in numbered if match)
    return tuple(names)


def read_lines(path: Path) -> list[str]:
    """The lines of a text that are not empty.

    Raises:
        ValueError: it is no text in UTF-8.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"a list must be text in UTF-8, but {path} is not: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
