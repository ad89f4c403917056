"""Exports as labelling tools write them, and the masks that they must become."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from trainables.convert import main
from trainables.data.labels import voc_palette

HEIGHT, WIDTH = 6, 8
COLORS = {0: (0, 0, 0), 1: (250, 50, 83), 2: (36, 179, 83), 255: (1, 2, 3)}
LABEL_MAP = """# label:color_rgb:parts:actions
background:0,0,0::
crack:250,50,83::
stain:36,179,83::
ignored:1,2,3::
"""
NAMES = ("background", "crack", "stain")


def labels(seed: int, values: tuple[int, ...] = (0, 1, 2, 255)) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.choice(np.array(values, np.uint8), (HEIGHT, WIDTH))


def save(path: Path, pixels: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def photo(path: Path, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    save(path, np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))
    return path


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def recolored(mask: np.ndarray) -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    for value, color in COLORS.items():
        table[value] = color
    return table[mask]


class Made:
    """What a test put at `root`: masks by the names that converted images must have."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.masks: dict[str, np.ndarray] = {}
        self.images: dict[str, Path] = {}
        self.classes: tuple[str, ...] = NAMES
        self.splits: dict[str, set[str]] | None = None
        self.options: list[str] = []
        self.recognised = ""

    def add(self, name: str, image: Path, mask: np.ndarray, seed: int = 0) -> None:
        self.images[name], self.masks[name] = photo(image, seed), mask


def cvat(root: Path) -> Made:
    made = Made(root)
    made.recognised = "CVAT segmentation mask 1.1"
    write(root / "labelmap.txt", LABEL_MAP)
    names = ["a 1", "b.v2", "sub/c", "d", "e"]
    for seed, name in enumerate(names):
        mask = labels(seed)
        save(root / "SegmentationClass" / f"{name}.png", recolored(mask))
        save(root / "SegmentationObject" / f"{name}.png", recolored(mask))
        made.add(name, root / "JPEGImages" / f"{name}{'.JPG' if seed else '.jpeg'}", mask, seed)
    write(root / "ImageSets/Segmentation/default.txt", "\n".join(names) + "\n")
    return made


def cvat_with_splits(root: Path) -> Made:
    made = cvat(root)
    (root / "JPEGImages").rename(root.parent / "photos")
    made.options = ["--images", str(root.parent / "photos")]
    made.images = {
        name: root.parent / "photos" / path.relative_to(root / "JPEGImages")
        for name, path in made.images.items()
    }
    lists = root / "ImageSets/Segmentation"
    (lists / "default.txt").rename(lists / "trainval.txt")
    write(lists / "Train.txt", "a 1\nb.v2\n")
    write(lists / "Validation.txt", "sub/c\n")
    write(lists / "test.txt", "d\n")
    made.splits = {"train": {"a 1", "b.v2"}, "val": {"sub/c"}}
    made.masks = {name: made.masks[name] for name in ("a 1", "b.v2", "sub/c")}
    return made


def roboflow_masks(root: Path) -> Made:
    made = Made(root)
    made.recognised = "Roboflow semantic segmentation masks (train, valid)"
    made.splits = {"train": {"a_jpg.rf.1", "b_jpg.rf.2"}, "val": {"c_jpg.rf.3"}}
    for split, stems in {**made.splits, "test": {"d_jpg.rf.4"}}.items():
        folder = root / {"val": "valid"}.get(split, split)
        write(folder / "_classes.csv", "Pixel Value, Class\n0, background\n1, crack\n2, stain\n")
        for seed, stem in enumerate(sorted(stems)):
            mask = save(folder / f"{stem}_mask.png", labels(seed + len(split), (0, 1, 2)))
            image = photo(folder / f"{stem}.jpg", seed)
            if split != "test":
                made.masks[stem], made.images[stem] = mask, image
    return made


def rectangle(left: int, top: int, right: int, bottom: int) -> list[float]:
    """A polygon around pixels left..right - 1 and top..bottom - 1."""
    return [left, top, right, top, right, bottom, left, bottom]


def filled(*boxes: tuple[int, tuple[int, int, int, int]]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value, (left, top, right, bottom) in boxes:
        mask[top:bottom, left:right] = value
    return mask


def runs(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, beginning with zeros."""
    counts, current = [0], 0
    for value in mask.T.ravel().tolist():
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return counts


def packed(mask: np.ndarray) -> str:
    text: str = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    return text


def coco_json(files: list[str], *annotations: tuple[int, int, object], **more: object) -> str:
    """An annotation file; each annotation is of an image (by place), a category and an outline."""
    images = [
        {"id": 10 + i, "file_name": name, "width": WIDTH, "height": HEIGHT, "license": 1}
        for i, name in enumerate(files)
    ]
    objects = [
        {"id": i, "image_id": 10 + image, "category_id": category, "segmentation": outline}
        | {"area": 1, "bbox": [0, 0, 1, 1], "iscrowd": int(isinstance(outline, dict))}
        for i, (image, category, outline) in enumerate(annotations)
    ]
    categories = [
        {"id": 0, "name": "damage"},
        {"id": 7, "name": "stain"},
        {"id": 3, "name": "crack"},
    ]
    content = {"images": images, "annotations": objects, "categories": categories, **more}
    return json.dumps(content)


BOX, OTHER = (1, 1, 4, 5), (5, 0, 8, 3)
TRIANGLE = [0.5, 0.2, 7.6, 2.5, 3.1, 5.9]
SIZE = [HEIGHT, WIDTH]


def coco_content(file_names: list[str]) -> tuple[str, list[np.ndarray]]:
    """Polygons, both kinds of run lengths, two parts in one object, and nothing at all."""
    one, two = filled((1, BOX)), filled((1, OTHER))
    text = coco_json(
        file_names,
        (0, 3, [rectangle(*BOX)]),
        (0, 7, [rectangle(*OTHER)]),
        (1, 7, {"size": SIZE, "counts": runs(one)}),
        (1, 3, {"size": SIZE, "counts": packed(two)}),
        (2, 3, [rectangle(*BOX), rectangle(*OTHER)]),
    )
    return text, [
        filled((1, BOX), (2, OTHER)),
        filled((2, BOX), (1, OTHER)),
        filled((1, BOX), (1, OTHER)),
        filled(),
    ]


FILES = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]


def add_coco(made: Made, file: Path, folder: Path, prefix: str = "", listed: str = "") -> None:
    text, masks = coco_content([listed + name for name in FILES])
    write(file, text)
    for seed, (name, mask) in enumerate(zip(FILES, masks, strict=True)):
        made.add(f"{prefix}{Path(name).stem}", folder / name, mask, seed)


def roboflow_coco(root: Path) -> Made:
    made = Made(root)
    made.recognised = "Roboflow COCO"
    for split, folder in (("train", "train"), ("val", "valid")):
        add_coco(made, root / folder / "_annotations.coco.json", root / folder, f"{split}/")
    made.splits = {s: {f"{s}/{name[0]}" for name in FILES} for s in ("train", "val")}
    shutil.copytree(root / "valid", root / "test")
    return made


def standard_coco(root: Path) -> Made:
    made = Made(root)
    made.recognised = "COCO, annotations"
    for split in ("train", "val"):
        file = root / f"annotations/instances_{split}2017.json"
        add_coco(made, file, root / f"{split}2017", f"{split}/")
    made.splits = {s: {f"{s}/{name[0]}" for name in FILES} for s in ("train", "val")}
    write(root / "annotations/captions_train2017.json", "{}")
    write(root / "annotations/instances_test2017.json", "{}")
    return made


def cvat_coco(root: Path) -> Made:
    made = Made(root)
    made.recognised = "COCO, annotations (instances_default)"
    add_coco(made, root / "annotations/instances_default.json", root / "images")
    return made


def coco_file(root: Path) -> Made:
    made = Made(root / "labels.json")
    made.recognised = "COCO annotation file"
    add_coco(made, root / "labels.json", root / "photos/sub", "sub/", "sub/")
    made.options = ["--images", str(root / "photos")]
    return made


def valued(root: Path, kind: str) -> Made:
    """Masks of values 7, 0, and 200 (or 60,000) in four kinds of image."""
    high = 60_000 if kind == "16-bit" else 200
    made = Made(root)
    made.recognised = "images and masks (images, masks; masks: values named by --values)"
    for seed in range(4):
        mask = labels(seed)
        if kind == "1-bit":
            mask = mask % 2
            stored = Image.fromarray(mask.astype(bool))
        else:
            table = np.zeros(256, np.uint16)
            table[[0, 1, 2, 255]] = 7, high, 0, 9
            pixels = table[mask].astype(np.uint16 if kind == "16-bit" else np.uint8)
            stored = Image.fromarray(pixels)
        if kind == "palette":
            stored.putpalette(voc_palette().tobytes())
        path = root / f"masks/{seed}.{'tif' if kind == 'grey' else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        stored.save(path)
        made.add(str(seed), root / f"images/{seed}.webp", mask, seed)
    made.options = ["--values", f"7=background,{high}=crack,0=stain,9=ignore"]
    if kind == "1-bit":
        made.options = ["--values", "0=background, 1 = crack"]
        made.classes = NAMES[:2]
    return made


def split_folders(root: Path) -> Made:
    """The same file names for train and val, with masks of one bit."""
    made = Made(root)
    made.recognised = "images and masks (train, validation; masks: 1-bit)"
    made.classes = ("background", "foreground")
    made.splits = {"train": {"train/a", "train/b"}, "val": {"val/a"}}
    for split, names in made.splits.items():
        folder = root / {"val": "validation"}.get(split, split)
        for seed, name in enumerate(sorted(names)):
            mask, stem = labels(seed + len(split), (0, 1)), Path(name).name
            save(folder / f"labels/{stem}.png", mask.astype(bool))
            made.add(name, folder / f"images/{stem}.png", mask, seed)
    return made


def subfolders(root: Path) -> Made:
    """images/train beside masks/train, in the colours of a label map."""
    made = Made(root)
    made.recognised = "images and masks (images, masks; masks: colours of labelmap.txt)"
    made.splits = {"train": {"train/a", "train/b"}, "val": {"val/a"}}
    write(root / "labelmap.txt", LABEL_MAP)
    for seed, name in enumerate(sorted(name for names in made.splits.values() for name in names)):
        mask = labels(seed)
        save(root / f"masks/{name}.bmp", recolored(mask))
        made.add(name, root / f"images/{name}.bmp", mask, seed)
    return made


SOURCES: dict[str, Callable[[Path], Made]] = {
    "CVAT": cvat,
    "CVAT with splits": cvat_with_splits,
    "Roboflow masks": roboflow_masks,
    "Roboflow COCO": roboflow_coco,
    "COCO": standard_coco,
    "CVAT COCO": cvat_coco,
    "COCO file": coco_file,
    **{kind: partial(valued, kind=kind) for kind in ("grey", "palette", "16-bit", "1-bit")},
    "split folders": split_folders,
    "subfolders": subfolders,
}


def convert(made: Made | Path, out: Path, *options: str) -> int:
    source, given = (made.root, made.options) if isinstance(made, Made) else (made, [])
    return main([str(source), "--out", str(out), *given, *options])


def listed(out: Path, split: str) -> list[str]:
    return (out / f"ImageSets/Segmentation/{split}.txt").read_text().splitlines()


def mask_of(out: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(out / f"SegmentationClass/{name}.png"))
