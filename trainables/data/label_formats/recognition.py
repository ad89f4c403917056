"""Recognises the format of an export."""

from pathlib import Path

from trainables.data.label_formats.coco import read_coco_export
from trainables.data.label_formats.export import Export
from trainables.data.label_formats.mask_folders import read_mask_folders
from trainables.data.label_formats.mask_values import Values
from trainables.data.label_formats.roboflow_masks import read_roboflow_masks

FORMATS = (
    "CVAT segmentation mask 1.1 (labelmap.txt, SegmentationClass)",
    "Roboflow semantic segmentation masks (train/_classes.csv)",
    "COCO (train/_annotations.coco.json, annotations/*.json, or one .json file with --images DIR)",
    "images + masks (or images + labels, train/images + train/masks, JPEGImages + "
    "SegmentationClass)",
)


def read_export(source: Path, images: Path | None, values: Values | None) -> Export:
    """The export of a labelling tool, in any of the known formats.

    Raises:
        ValueError: the format is unknown, does not allow the options, or the data violate it.
    """
    check_places(source, images)
    coco = read_coco_export(source, images)
    export = coco or (None if source.is_file() else read_roboflow_masks(source))
    if export is None:
        masks = None if source.is_file() else read_mask_folders(source, images, values)
        if masks is None:
            raise ValueError(
                f"an export must be unpacked and in a format that is read, but {source} is not: "
                f"{'; '.join(FORMATS)}"
            )
        return masks
    if values:
        raise ValueError(
            f"--values must be left out where the export names its classes, but {source} is "
            f"{export.described}"
        )
    if images and not coco:
        raise ValueError(
            f"--images must be left out where masks lie beside images, but {source} is "
            f"{export.described}"
        )
    return export


def check_places(source: Path, images: Path | None) -> None:
    if not source.exists():
        raise ValueError(f"the export must exist, but there is no {source}")
    if images is not None and not images.is_dir():
        raise ValueError(f"--images must be a folder, but there is no {images}")
