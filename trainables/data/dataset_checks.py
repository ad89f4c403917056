"""Checks for contradictions between the files of a data set, and notes on it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from trainables.data.base import SPLITS, Split
from trainables.data.image_file import Color
from trainables.data.labels import IGNORE

LEAST_PEAK = 8192
"""16-bit images whose greatest value is below this use at most 13 bits and are refused."""
Fit = Literal["plain", "stored", "turned", "either"]
"""How an image fits its mask: it has no EXIF orientation; or only as stored; or only turned as its
orientation says; or both ways."""


class SampleInfo(NamedTuple):
    """Facts about the two files of a sample.

    `size` is (width, height) of the mask, in pixels; `values` are the mask's values, `kept` those
    that remain at the training size; `colors` are the palette's colours of values, empty where
    colours give the classes, as in a mask that is read `by_color` (None: both give the same). A
    flat image has a single colour; the peak is the greatest value of a 16-bit image.
    """

    split: Split
    image: Path
    mask: Path
    size: tuple[int, int]
    fit: Fit
    values: frozenset[int]
    kept: frozenset[int]
    colors: dict[int, Color]
    by_color: bool | None
    is_flat: bool
    peak: int | None


def check_splits(samples: Sequence[SampleInfo], root: Path) -> None:
    """Raises ValueError where a split has fewer than two classes."""
    for split in SPLITS:
        own = [look for look in samples if look.split == split]
        values = set().union(*(look.values for look in own))
        kept = set().union(*(look.kept for look in own))
        if len(kept - {IGNORE}) >= 2:
            continue
        held = f"the masks that {split} lists in {own[0].mask.parent} hold {listed(values)} alone"
        if len(values - {IGNORE}) >= 2:
            reason = f"{held}, and {listed(kept)} at this image size: choose a larger --image-size"
        elif IGNORE in values and len(values) == 2:
            other = min(values)
            reason = (
                f"{held}, and {IGNORE} marks pixels that are ignored: write 1 for the foreground, "
                f"as python -m trainables.convert {root} --out DIR --values "
                f"{other}=background,{IGNORE}=foreground does"
            )
        else:
            reason = f"{held}: write 0 for the background and 1, 2, ... for the classes"
        raise ValueError(f"a split must have pixels of at least two classes, but {reason}")


class MaskColors:
    """Collects the colours of masks, and checks that they do not contradict each other.

    A mask without a palette, or whose palette gives each value its own grey, has no colours; a
    viewer shows its values as grey levels.
    """

    def __init__(self) -> None:
        self.colors: dict[int, tuple[Color, Path]] = {}
        self.values: dict[Color, tuple[int, Path]] = {}
        self.shown: dict[int, Path] = {}
        self.greys: dict[int, tuple[int, Path]] = {}

    def see(self, mask: Path, values: Iterable[int], colors: Mapping[int, Color]) -> None:
        """Adds the values of a mask, and the colours that its palette gives them, if any.

        Raises:
            ValueError: another mask gives a value another colour, or a colour another value.
        """
        known = {value: color for value, color in colors.items() if value != IGNORE}
        for value, color in known.items():
            before, other = self.colors.setdefault(value, (color, mask))
            if before != color:
                raise contradiction(f"{value} is {before} in {other} and {color} in {mask}")
            if list(known.values()).count(color) == 1:
                first, other = self.values.setdefault(color, (value, mask))
                if first != value:
                    raise contradiction(f"{color} is {first} in {other} and {value} in {mask}")
            if len(set(color)) == 1 and color[0] != value:
                self.greys.setdefault(color[0], (value, mask))
        if not colors:
            self.shown |= {value: mask for value in values if value != IGNORE}
        for grey in self.greys.keys() & self.shown.keys():
            value, other = self.greys[grey]
            raise contradiction(
                f"{value} is shown as grey {grey} in {other}, which {self.shown[grey]} holds itself"
            )


def contradiction(what: str) -> ValueError:
    return ValueError(
        f"masks must give a value one colour and a colour one value, but {what}, so that a value "
        "may mean different classes: save all masks with one palette, or all in grey"
    )


def check_colors(samples: Sequence[SampleInfo]) -> None:
    """Raises ValueError where masks contradict each other in the meaning of values or colours."""
    colored = next((look for look in samples if look.by_color), None)
    valued = next((look for look in samples if look.by_color is False), None)
    if colored and valued:
        raise ValueError(
            "masks must all be in the colours of the label map, or none, but "
            f"{colored.mask} is and {valued.mask} holds values"
        )
    seen = MaskColors()
    for look in samples:
        if not look.by_color:
            seen.see(look.mask, look.values, look.colors)


def check_peaks(peaks: Mapping[Path, int]) -> None:
    """Raises ValueError where 16-bit images use so few values that they would be nearly black.

    `peaks` are their greatest values.
    """
    if peaks and (peak := max(peaks.values())) < LEAST_PEAK:
        raise ValueError(
            f"16-bit images must use values up to 65535, where white is, but none of the "
            f"{len(peaks)} such as {next(iter(peaks))} exceeds {peak}: stretch them, or save them "
            "with 8 bits"
        )


def images_as_stored(samples: Sequence[SampleInfo]) -> frozenset[Path]:
    """The images that are not rotated although they have an EXIF orientation.

    These are the images whose masks fit only the stored orientation. Images that fit both ways are
    included if the sizes of other images show that some are not rotated and none is.
    """
    fits = {look.fit for look in samples}
    kept = {"stored", "either"} if "stored" in fits and "turned" not in fits else {"stored"}
    return frozenset(look.image for look in samples if look.fit in kept)


def notes_on(samples: Sequence[SampleInfo], class_names: Sequence[str]) -> list[str]:
    """Notes that a user should read before training on the data set, a line each."""
    notes = [*notes_on_orientation(samples), *notes_on_classes(samples, class_names)]
    return notes + notes_on_flat([look.image for look in samples if look.is_flat])


def notes_on_flat(images: Sequence[Path]) -> list[str]:
    """A note on images of a single colour, if there are any."""
    return [f"{len(images)} images show a single colour, such as {images[0]}"] if images else []


def notes_on_orientation(samples: Sequence[SampleInfo]) -> list[str]:
    oriented = [look for look in samples if look.fit != "plain"]
    if not oriented:
        return []
    stored = len(images_as_stored(samples))
    note = f"{len(oriented)} images have an EXIF orientation: {len(oriented) - stored} are turned"
    note += f" as viewers show them, {stored} are not; the sizes of their masks say which"
    if ambiguous := sum(look.fit == "either" for look in samples):
        kind = "not turned, as the others" if stored else "turned"
        note += f", but for {ambiguous} that fit both ways and are taken to be {kind}"
    return [note]


def notes_on_classes(samples: Sequence[SampleInfo], class_names: Sequence[str]) -> list[str]:
    used: dict[Split, set[int]] = {
        split: set().union(*(look.values for look in samples if look.split == split))
        for split in SPLITS
    }
    shrunk = set[int]().union(*(look.kept for look in samples if look.split == "train"))
    notes = []
    unlearned = ", which get no weight in a weighted loss"
    for described, values, consequence in (
        ("no mask uses", set(range(len(class_names))) - used["train"] - used["val"], unlearned),
        ("val alone, which no training can learn, uses", used["val"] - used["train"], unlearned),
        ("no training mask shrunk to this image size holds", used["train"] - shrunk, unlearned),
        ("train alone, which no mIoU counts, uses", used["train"] - used["val"], ""),
    ):
        if names := [class_names[value] for value in sorted(values - {IGNORE})]:
            number = f"{len(names)} of {len(class_names)} classes"
            notes.append(f"{described} {number}{consequence}: {shown(names)}")
    binary = [look for look in samples if look.values == {0, IGNORE}]
    if binary:
        notes.append(
            f"{len(binary)} masks hold 0 and {IGNORE} alone, such as {binary[0].mask}: "
            f"{IGNORE} is ignored, not a class"
        )
    return notes


def shown(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def listed(values: Iterable[int]) -> str:
    texts = [str(value) for value in sorted(values)]
    return " and ".join(texts) if len(texts) < 3 else shown(texts)
