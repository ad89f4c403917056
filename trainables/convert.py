"""Converts the exports of labelling tools into the layout that a search reads.

python -m trainables.convert SOURCE --out DIR
"""

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from trainables.core.command_line import Parser, as_path, report
from trainables.core.errors import DiskFull
from trainables.data.base import SPLITS, Split
from trainables.data.label_formats.export import Export
from trainables.data.label_formats.found_files import other_files
from trainables.data.label_formats.mask_values import parse_values
from trainables.data.label_formats.recognition import FORMATS, read_export
from trainables.data.label_formats.splits import divide
from trainables.data.label_formats.voc_writer import (
    Contents,
    check_classes,
    check_free,
    new_folder,
    write_voc,
)
from trainables.data.labels import IGNORE

MOST_SHOWN = 3
EXAMPLES = f"""SOURCE is one of these, found out by what it holds:
{chr(10).join(f"  {line}" for line in FORMATS)}

DIR gets JPEGImages (images as they are), SegmentationClass (PNG masks of class indices, 255 is
ignored), ImageSets/Segmentation/train.txt and val.txt, and classes.txt.

examples:
  python -m trainables.convert export --out data
  python -m trainables.convert cracks --out data --values 0=background,255=crack
  python -m trainables.convert labels.json --images photos --out data --val 0.1

exit status: 0 done; 1 the disk is full; 2 bad input.
"""


def main(argv: list[str] | None = None) -> int:
    """Exit status 0: converted; 1: the disk is full; 2: bad input."""
    arguments = parse(argv)
    return report(lambda: run(arguments), DiskFull)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m trainables.convert",
        "Turn labelled images of a labelling tool into a data folder for search.run.",
        EXAMPLES,
    )
    add = parser.add_argument
    add("source", type=as_path, metavar="SOURCE", help="the unpacked export")
    add("--out", type=as_path, required=True, metavar="DIR", help="a new or empty folder")
    add("--images", type=as_path, metavar="DIR", help="the images, where the export has none")
    add(
        "--values",
        metavar="VALUE=NAME,...",
        help="what the values of grey masks are, in the order of classes; NAME ignore is ignored",
    )
    add(
        "--val",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="of images for validation, where SOURCE has no train and val (default: 0.2)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of the random split (default: 0)")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> None:
    if not 0 < arguments.val < 1:
        raise ValueError(f"--val must be between 0 and 1, but got {arguments.val}")
    check_free(arguments.out)
    values = None if arguments.values is None else parse_values(arguments.values)
    export = read_export(arguments.source, arguments.images, values)
    check_classes(export.class_names, arguments.source)
    division = divide(export.groups, arguments.val, arguments.seed, arguments.source)
    remarks = [*export.notes, *describe_left_out(export, folders_of(arguments))]
    with new_folder(arguments.out) as folder:
        contents = write_voc(folder, export.class_names, division.parts)
    print(f"recognised: {export.described}")
    counts = ", ".join(f"{contents[split].num_images} {split}" for split in SPLITS)
    print(f"images: {counts} (split {division.decided})")
    for line in [*describe_classes(export.class_names, contents), *remarks]:
        print(line)
    print(f"written: {arguments.out}")
    print(f"python -m search.run --space qkd --data {shlex.quote(str(arguments.out))}")


def folders_of(arguments: argparse.Namespace) -> list[Path]:
    """The folders that the user named, without those inside another."""
    source, images = arguments.source, arguments.images
    folders = [path for path in (source, images) if path is not None and path.is_dir()]
    if len(folders) == 2 and images.resolve().is_relative_to(source.resolve()):
        return [source]
    return folders


def describe_classes(names: Sequence[str], contents: Mapping[Split, Contents]) -> Iterator[str]:
    """A table of the classes, then of the ignored pixels."""
    head = [
        "index",
        "class",
        *(f"{split} {what}" for split in SPLITS for what in ("pixels", "images")),
    ]
    rows = [[str(index), name, *shares(index, contents)] for index, name in enumerate(names)]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        cells = [
            cell.ljust(width) if column == 1 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells)
    ignored = [
        f"{share(held.pixels[IGNORE], held.pixels.sum())} of {split}"
        for split, held in contents.items()
    ]
    yield f"ignored pixels ({IGNORE}): {', '.join(ignored)}"
    if any(held.num_overlapping for held in contents.values()):
        overlapping = [
            f"{share(held.num_overlapping, held.pixels.sum())} of {split}"
            for split, held in contents.items()
        ]
        yield f"ignored because different classes overlap: {', '.join(overlapping)}"


def shares(index: int, contents: Mapping[Split, Contents]) -> Iterator[str]:
    """For each split, a class's share of the labelled pixels, and the images that show it."""
    for split in SPLITS:
        held = contents[split]
        yield share(held.pixels[index], held.pixels[:IGNORE].sum())
        yield str(held.images[index])


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %" if whole else "0 %"


def describe_left_out(export: Export, folders: Sequence[Path]) -> Iterator[str]:
    for reason, things in export.left_out.items():
        if things:
            yield f"left out: {reason}: {len(things)} ({examples(things)})"
    for folder, endings in other_files(export, folders).items():
        yield f"left out: other files in {folder}: {counted(endings)}"


def examples(things: Iterable[Path | str]) -> str:
    different = list(dict.fromkeys(map(str, things)))
    return ", ".join(different[:MOST_SHOWN]) + (", ..." if len(different) > MOST_SHOWN else "")


def counted(endings: Counter[str]) -> str:
    return ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))


if __name__ == "__main__":
    sys.exit(main())
