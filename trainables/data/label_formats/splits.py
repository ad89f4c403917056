"""Divides labelled images into training and validation splits."""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from trainables.data.base import SPLITS, Split
from trainables.data.label_formats.export import LabelledImage

WORDS: dict[str, Literal["train", "val", "test"]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

Parts = Mapping[Split, Sequence[LabelledImage]]


class Division(NamedTuple):
    """The images of each split, and a description of how they were divided."""

    parts: Parts
    decided: str


def split_of(name: str) -> Literal["train", "val", "test"] | None:
    """The split that one word of a name stands for, as in `instances_train2017`."""
    found = {WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in WORDS}
    return found.pop() if len(found) == 1 else None


def is_divided(groups: Iterable[str]) -> bool:
    """Whether groups of these names are a training and a validation split."""
    return {"train", "val"} <= {split_of(name) for name in groups}


def wanted(groups: Sequence[str]) -> list[str]:
    """The groups that are converted: train and val if there are both, else all but test."""
    kinds = ("train", "val") if is_divided(groups) else ("train", "val", None)
    return [name for name in groups if split_of(name) in kinds]


def divide(
    groups: Mapping[str, Sequence[LabelledImage]], share: float, seed: int, origin: Path
) -> Division:
    """Train and val of the wanted groups of an export; drawn at random if it lacks one of them.

    Raises:
        ValueError: a split would be empty, an image is in both, or two would have one name.
    """
    if is_divided(groups):
        parts = {split: of_split(groups, split, origin) for split in SPLITS}
        check_disjoint(parts)
        if {image.name for image in parts["train"]} & {image.name for image in parts["val"]}:
            parts = {split: prefixed(split, images) for split, images in parts.items()}
        division = Division(parts, "as the source has it")
    else:
        images = [image for group in groups.values() for image in group]
        images.sort(key=lambda image: (image.name, image.image))
        decided = f"at random, --val {share:g} --seed {seed}"
        division = Division(draw_val(images, share, seed, origin), decided)
    check_names([image for images in division.parts.values() for image in images])
    return division


def of_split(
    groups: Mapping[str, Sequence[LabelledImage]], split: Split, origin: Path
) -> list[LabelledImage]:
    own = [name for name in groups if split_of(name) == split]
    images = [image for name in own for image in groups[name]]
    if not images:
        raise ValueError(
            f"a split must have at least one labelled image, but {', '.join(own)} of {origin} has "
            "none"
        )
    return images


def check_disjoint(parts: Parts) -> None:
    train = {image.image for image in parts["train"]}
    for image in parts["val"]:
        if image.image in train:
            raise ValueError(f"train and val must not share images, but both have {image.image}")


def prefixed(split: Split, images: Iterable[LabelledImage]) -> list[LabelledImage]:
    return [image._replace(name=f"{split}/{image.name}") for image in images]


def draw_val(images: Sequence[LabelledImage], share: float, seed: int, origin: Path) -> Parts:
    if len(images) < 2:
        raise ValueError(
            f"train and val must have at least one image each, but {origin} has {len(images)} "
            "labelled images"
        )
    num_val = min(max(round(share * len(images)), 1), len(images) - 1)
    drawn = set(random.Random(seed).sample(range(len(images)), num_val))
    return {
        "train": [image for index, image in enumerate(images) if index not in drawn],
        "val": [image for index, image in enumerate(images) if index in drawn],
    }


def check_names(images: Iterable[LabelledImage]) -> None:
    """Raises ValueError where two images have one name, or a list cannot hold a name."""
    named: dict[str, Path] = {}
    for image in images:
        if image.name in named:
            raise ValueError(
                f"images must have different names, but {named[image.name]} and {image.image} "
                f"would both be {image.name!r}"
            )
        named[image.name] = image.image
        if image.name != image.name.strip() or len(image.name.splitlines()) != 1:
            raise ValueError(
                "an image's name must be one line without spaces at its ends, but got "
                f"{str(image.image)!r}"
            )
