"""Images with a mask file each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from trainables.data.image_file import Labels
from trainables.data.label_formats.export import Drawing, Export, LabelledImage
from trainables.data.label_formats.splits import wanted

ReadMask = Callable[[Path], Labels]


class Pair(NamedTuple):
    image: Path
    mask: Path


class Paired(NamedTuple):
    """By name: images with their masks, images without a mask and masks without an image."""

    pairs: dict[str, Pair]
    no_mask: dict[str, Path]
    no_image: dict[str, Path]


def pair(images: Mapping[str, Path], masks: Mapping[str, Path], folder: Path) -> Paired:
    """Images and masks of one name.

    Raises:
        ValueError: no image has a mask.
    """
    pairs = {name: Pair(path, masks[name]) for name, path in images.items() if name in masks}
    no_mask = {name: path for name, path in images.items() if name not in masks}
    no_image = {name: path for name, path in masks.items() if name not in images}
    if not pairs:
        both = [str(path) for paths in (no_mask, no_image) for path in [*paths.values()][:1]]
        raise ValueError(
            f"an image and its mask must have one name, but of the {len(images)} images and "
            f"{len(masks)} masks of {folder} no two have"
            + (f", such as {' and '.join(both)}" if both else "")
        )
    return Paired(pairs, no_mask, no_image)


def export_pairs(
    described: str,
    class_names: tuple[str, ...],
    groups: Mapping[str, Mapping[str, Pair]],
    read: ReadMask,
) -> Export:
    """An export of pairs, by group and name, whose masks `read` reads."""
    chosen = wanted(list(groups))
    images = {group: [labelled(*item, read) for item in groups[group].items()] for group in chosen}
    taken = {image.image for group in images.values() for image in group}
    left_out: dict[str, Sequence[Path | str]] = {}
    masks: set[Path] = set()
    for group in groups:
        if group not in chosen:
            rest = [pair for pair in groups[group].values() if pair.image not in taken]
            masks |= {pair.mask for pair in rest}
            reason = f"images of the split {group}" if group else "images of no split"
            left_out[reason] = [pair.image for pair in rest]
    return Export(described, class_names, images, left_out, frozenset(masks))


def labelled(name: str, pair: Pair, read: ReadMask) -> LabelledImage:
    return LabelledImage(name, pair.image, pair.mask, partial(draw, read, pair.mask))


def draw(read: ReadMask, mask: Path) -> Drawing:
    return Drawing(read(mask))


def with_rest(export: Export, paired: Iterable[Paired], files: Iterable[Path]) -> Export:
    """The export, with what has no counterpart left out and further files accounted for."""
    left_out = dict(export.left_out)
    for each in paired:
        for reason, paths in (
            ("images without a mask", each.no_mask),
            ("masks without an image", each.no_image),
        ):
            left_out[reason] = [*left_out.get(reason, []), *paths.values()]
    return export._replace(left_out=left_out, accounted=export.accounted.union(files))
