"""COCO's annotation files (Lin et al. 2014)."""

import codecs
import reprlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MAX_PIXELS = 178_956_970
"""Maximum size of an image that Pillow reads."""


class CocoPart(BaseModel):
    """An immutable part of an annotation file; other fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Runs(CocoPart):
    """Alternating run lengths of 0 and 1, column by column, as a list or packed in a text.

    `size` is (height, width).
    """

    size: tuple[int, int]
    counts: list[int] | str


Segmentation = list[list[float]] | Runs
"""Polygons of x, y, x, y, ...; or run lengths."""


class CocoImage(CocoPart):
    id: int
    file_name: str = Field(min_length=1)
    width: int = Field(ge=1)
    height: int = Field(ge=1)


class CocoAnnotation(CocoPart):
    """One object, or with COCO's `iscrowd` several of one category."""

    image_id: int
    category_id: int
    segmentation: Segmentation | None = None


class CocoCategory(CocoPart):
    id: int
    name: str = Field(min_length=1)


class CocoFile(CocoPart):
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


def read_coco(path: Path) -> CocoFile:
    """An annotation file whose ids are unique and known.

    Raises:
        ValueError: it is no annotation file.
    """
    try:
        file = CocoFile.model_validate_json(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        raise ValueError(
            f"{path} must be a COCO annotation file, but {first_fault(error)}"
        ) from error
    for image in file.images:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(
                f"an image must have at most {MAX_PIXELS} pixels, but {path} lists "
                f"{image.file_name!r} with {image.width} x {image.height}"
            )
    images = unique(path, "image", (image.id for image in file.images))
    categories = unique(path, "category", (category.id for category in file.categories))
    for annotation in file.annotations:
        for kind, known, used in (
            ("image", images, annotation.image_id),
            ("category", categories, annotation.category_id),
        ):
            if used not in known:
                raise ValueError(
                    f"an annotation must have the id of a listed {kind}, but {path} has one with "
                    f"{kind}_id {used}"
                )
    return file


def first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"])
    found = reprlib.repr(fault["input"]).replace("\n", " ")
    return f"{place + ': ' if place else ''}{fault['msg']}, got {found}"


def unique(path: Path, kind: str, ids: Iterable[int]) -> set[int]:
    known: set[int] = set()
    for number in ids:
        if number in known:
            raise ValueError(f"{kind} ids must be unique, but {path} has {number} twice")
        known.add(number)
    return known
