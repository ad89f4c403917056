"""Roboflow's "Semantic Segmentation Masks": each split a folder of images and grey masks."""

import csv
from pathlib import Path

from trainables.data.class_list import read_lines
from trainables.data.label_formats.export import Export
from trainables.data.label_formats.found_files import by_name, images_below, visible_folders
from trainables.data.label_formats.mask_values import Values, by_values, make_values
from trainables.data.label_formats.pairs import Paired, export_pairs, pair, with_rest
from trainables.data.label_formats.splits import wanted

CLASSES, MASK_ENDING = "_classes.csv", "_mask"
HEADER = "pixel value"


def read_roboflow_masks(source: Path) -> Export | None:
    """The export of folders with `_classes.csv`; None if `source` has none.

    Raises:
        ValueError: classes differ from folder to folder, or images have no masks.
    """
    found = {
        folder.name: folder for folder in visible_folders(source) if (folder / CLASSES).is_file()
    }
    if not found:
        return None
    folders = {name: found[name] for name in wanted(list(found))}
    files = [folder / CLASSES for folder in folders.values()]
    values = same_values(files)
    paired = {name: pair_folder(folder) for name, folder in folders.items()}
    described = f"Roboflow semantic segmentation masks ({', '.join(folders)})"
    groups = {name: each.pairs for name, each in paired.items()}
    export = export_pairs(described, values.names, groups, by_values(values))
    return with_rest(export, paired.values(), files)


def same_values(files: list[Path]) -> Values:
    first, *others = (read_values(path) for path in files)
    for path, values in zip(files[1:], others, strict=True):
        if (values.names, values.indices) != (first.names, first.indices):
            raise ValueError(
                f"the splits must have the same classes, but {files[0]} and {path} differ"
            )
    return first


def read_values(path: Path) -> Values:
    """The classes of `_classes.csv` in the order of their values.

    Raises:
        ValueError: a line is no value and name.
    """
    try:
        header, *rows = [*csv.reader(read_lines(path), skipinitialspace=True)] or [[]]
    except csv.Error as error:
        raise ValueError(f"{path} must be a table of values and classes, but {error}") from error
    if not header or header[0].strip().lower() != HEADER:
        raise ValueError(f"the first line must be 'Pixel Value, Class', but {path} has {header}")
    for row in rows:
        if len(row) != 2 or not row[0].strip().isdecimal() or not row[1].strip():
            raise ValueError(f"a line must hold a value and a class, but {path} has {row}")
    return make_values(sorted((int(value), name.strip()) for value, name in rows), str(path))


def pair_folder(folder: Path) -> Paired:
    files = by_name(folder, images_below(folder))
    masks = {name for name in files if name.endswith(MASK_ENDING)}
    return pair(
        {name: path for name, path in files.items() if name not in masks},
        {name.removesuffix(MASK_ENDING): files[name] for name in masks},
        folder,
    )
