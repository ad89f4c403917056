"""Exports in COCO's format: by Roboflow, by CVAT, and in COCO's own folders."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from trainables.core.optional_dependencies import require_coco
from trainables.data.label_formats.coco_drawing import Outline, draw_outlines, has_area
from trainables.data.label_formats.coco_file import CocoFile, CocoImage, read_coco
from trainables.data.label_formats.export import Export, LabelledImage
from trainables.data.label_formats.found_files import images_below, is_visible, visible_folders
from trainables.data.label_formats.splits import split_of, wanted
from trainables.data.split_list import inside

ROBOFLOW_FILE, FOLDER, SUFFIX = "_annotations.coco.json", "annotations", ".json"
OBJECTS = "instances_"
"""Prefix of the files with outlines; COCO also has files of captions and key points."""
BACKGROUND = "background"


class Part(NamedTuple):
    """An annotation file and the folder of its images."""

    file: Path
    images: Path


def read_coco_export(source: Path, images: Path | None) -> Export | None:
    """The export of annotation files in COCO's format; None if `source` has none.

    Raises:
        ValueError: one is malformed, or an image is absent or ambiguous.
    """
    described, found = find_parts(source, images)
    if not found:
        return None
    require_coco("reading COCO annotations")
    parts = {name: found[name] for name in wanted(list(found))}
    files = {name: read_coco(part.file) for name, part in parts.items()}
    categories = same_categories(parts, files.values())
    used = {
        annotation.category_id
        for file in files.values()
        for annotation in file.annotations
        if has_area(annotation.segmentation)
    }
    if not used:
        raise ValueError(
            f"an export must have annotations with outlines, but {source} has none in "
            f"{', '.join(str(part.file) for part in parts.values())}"
        )
    indices = class_indices(categories, used)
    left_out = [part.file for name, part in found.items() if name not in parts]
    return Export(
        f"{described} ({', '.join(parts)})",
        (BACKGROUND, *(categories[number] for number in indices)),
        {name: read_images(parts[name], name, files[name], indices) for name in parts},
        {
            "annotation files of other splits": left_out,
            "categories without outlines": [n for i, n in categories.items() if i not in used],
            "annotations without outline (boxes, points, lines)": without_area(
                files.values(), categories
            ),
        },
        frozenset(part.file for part in parts.values()),
        tuple(notes_on(files.values())),
    )


def find_parts(source: Path, images: Path | None) -> tuple[str, dict[str, Part]]:
    """A description of the format, and annotation files by a name that may contain the split."""
    if source.is_file():
        if source.suffix.lower() != SUFFIX:
            return "", {}
        if images is None:
            raise ValueError(f"an annotation file needs --images DIR, but got {source} alone")
        return "COCO annotation file", {source.stem: Part(source, images)}
    folders = [folder for folder in visible_folders(source) if (folder / ROBOFLOW_FILE).is_file()]
    if folders:
        return "Roboflow COCO", {
            folder.name: Part(folder / ROBOFLOW_FILE, images or folder) for folder in folders
        }
    paths = sorted((source / FOLDER).glob(f"*{SUFFIX}"))
    paths = [path for path in paths if is_visible(path.name)]
    paths = [path for path in paths if path.name.startswith(OBJECTS)] or paths
    return f"COCO, {FOLDER}", {path.stem: Part(path, images or source) for path in paths}


def same_categories(parts: Mapping[str, Part], files: Iterable[CocoFile]) -> dict[int, str]:
    """The names of all categories, in the order of their ids.

    Raises:
        ValueError: two files give an id different names.
    """
    names: dict[int, str] = {}
    for part, file in zip(parts.values(), files, strict=True):
        for category in file.categories:
            name = category.name.strip()
            if (other := names.setdefault(category.id, name)) != name:
                raise ValueError(
                    f"annotation files must agree on categories, but {part.file} calls "
                    f"{category.id} {name!r} and another {other!r}"
                )
    return dict(sorted(names.items()))


def class_indices(categories: Mapping[int, str], used: set[int]) -> dict[int, int]:
    """The class of each used category: 1, 2, ... in the order of their ids.

    A category named background has none: it is class 0, like all pixels without an outline.
    """
    objects = [n for n, name in categories.items() if n in used and name.lower() != BACKGROUND]
    return {number: index + 1 for index, number in enumerate(objects)}


def read_images(
    part: Part, name: str, file: CocoFile, indices: Mapping[int, int]
) -> list[LabelledImage]:
    outlines: dict[int, list[Outline]] = {}
    for annotation in file.annotations:
        index, segmentation = indices.get(annotation.category_id), annotation.segmentation
        if index is not None and segmentation is not None and has_area(segmentation):
            outlines.setdefault(annotation.image_id, []).append((index, segmentation))
    places = Places(part, name)
    labelled = []
    for image in file.images:
        path = places.find(image)
        stem = Path(image.file_name).with_suffix("").as_posix()
        draw = partial(draw_outlines, part.file, image, outlines.get(image.id, []))
        labelled.append(LabelledImage(stem, path, part.file, draw))
    return labelled


class Places:
    """Finds the images of an annotation file; the folder is searched once."""

    def __init__(self, part: Part, name: str) -> None:
        self.part, self.split = part, split_of(name)
        self.paths: dict[str, list[Path]] = {}
        for path in images_below(part.images):
            self.paths.setdefault(path.name, []).append(path)

    def find(self, image: CocoImage) -> Path:
        """The file below the folder; of several, the one in a folder named for the split.

        Raises:
            ValueError: there is none, or more than one.
        """
        name, folder = inside(self.part.file, image.file_name), self.part.images
        found = [
            p for p in self.paths.get(name.name, []) if p.parts[-len(name.parts) :] == name.parts
        ]
        if folder / name in found:
            return folder / name
        if len(found) > 1:
            own = [path for path in found if self.is_of_split(path.relative_to(folder))]
            found = own or found
        if not found:
            raise ValueError(
                f"every listed image must exist, but {self.part.file} lists {image.file_name!r}, "
                f"which is not in {folder}: say --images DIR if it is elsewhere"
            )
        if len(found) > 1:
            raise ValueError(
                f"a listed image must be one file, but {self.part.file} lists "
                f"{image.file_name!r}, which may be {found[0]} or {found[1]}"
            )
        return found[0]

    def is_of_split(self, path: Path) -> bool:
        return self.split is not None and self.split in map(split_of, path.parts[:-1])


def without_area(files: Iterable[CocoFile], categories: Mapping[int, str]) -> list[str]:
    """The category of each annotation without area."""
    return [
        categories[annotation.category_id]
        for file in files
        for annotation in file.annotations
        if not has_area(annotation.segmentation)
    ]


def notes_on(files: Iterable[CocoFile]) -> Iterator[str]:
    empty = 0
    for file in files:
        drawn = {a.image_id for a in file.annotations if has_area(a.segmentation)}
        empty += sum(image.id not in drawn for image in file.images)
    if empty:
        yield f"images without outlines, which are all background: {empty}"
