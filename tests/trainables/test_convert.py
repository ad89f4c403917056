"""Exports of labelling tools become the data folder that a search reads, label by label."""

import errno
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from trainables.convert import main
from trainables.core import optional_dependencies as extras
from trainables.data.label_formats import voc_writer
from trainables.data.label_formats.coco_drawing import unpack
from trainables.data.labels import voc_palette
from trainables.data.voc import VocFolder

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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results" / "data"


def convert(made: Made | Path, out: Path, *options: str) -> int:
    source, given = (made.root, made.options) if isinstance(made, Made) else (made, [])
    return main([str(source), "--out", str(out), *given, *options])


def listed(out: Path, split: str) -> list[str]:
    return (out / f"ImageSets/Segmentation/{split}.txt").read_text().splitlines()


def mask_of(out: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(out / f"SegmentationClass/{name}.png"))


@pytest.mark.parametrize("kind", SOURCES)
def test_every_label_and_image_is_the_source_s(
    kind: str, root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = SOURCES[kind](root)
    assert convert(made, out) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"recognised: {made.recognised}")
    assert said[-1] == f"python -m search.run --space qkd --data {out}"
    splits = {split: listed(out, split) for split in ("train", "val")}
    if made.splits is None:
        assert sorted(splits["train"] + splits["val"]) == sorted(made.masks)
        assert len(splits["val"]) == 1
        assert "split at random, --val 0.2 --seed 0" in said[1]
    else:
        assert {split: set(names) for split, names in splits.items()} == made.splits
        assert "split as the source has it" in said[1]
    for name, mask in made.masks.items():
        stored = Image.open(out / f"SegmentationClass/{name}.png")
        assert stored.mode == "P"
        assert stored.getpalette() == voc_palette().ravel().tolist()
        np.testing.assert_array_equal(np.asarray(stored), mask, strict=True)
        image = out / f"JPEGImages/{name}{made.images[name].suffix}"
        assert image.read_bytes() == made.images[name].read_bytes()
    written = {path for path in (out / "SegmentationClass").rglob("*") if path.is_file()}
    assert len(written) == len(made.masks)
    assert not [path for path in out.parent.iterdir() if path != out]


@pytest.mark.parametrize("kind", SOURCES)
def test_the_result_is_read_for_training(kind: str, root: Path, out: Path) -> None:
    made = SOURCES[kind](root)
    assert convert(made, out, "--val", "0.5") == 0
    source = VocFolder(out, WIDTH)
    assert source.class_names == made.classes
    first = min(listed(out, "val"))
    index = listed(out, "val").index(first)
    np.testing.assert_array_equal(source.sample("val", index).mask, made.masks[first])


def test_a_random_split_follows_seed_and_share(root: Path, tmp_path: Path) -> None:
    made = valued(root, "grey")
    lists = []
    for place, options in enumerate((["--seed", "1"], ["--seed", "1"], ["--seed", "2"])):
        out = tmp_path / str(place)
        assert convert(made, out, "--val", "0.5", *options) == 0
        lists.append((listed(out, "train"), listed(out, "val")))
    assert lists[0] == lists[1] != lists[2]
    assert [len(names) for names in lists[0]] == [2, 2]
    for share, num_val in (("0.01", 1), ("0.99", 3)):
        out = tmp_path / share
        assert convert(made, out, "--val", share) == 0
        assert len(listed(out, "val")) == num_val


TRIANGLE = [0.5, 0.2, 7.6, 2.5, 3.1, 5.9]


def test_a_polygon_covers_what_pycocotools_says(root: Path, out: Path) -> None:
    write(root / "annotations/all.json", coco_json(FILES[:2], (0, 3, [TRIANGLE])))
    for name in FILES[:2]:
        photo(root / "images" / name)
    assert convert(root, out) == 0
    expected = coco_mask.decode(coco_mask.frPyObjects([TRIANGLE], HEIGHT, WIDTH))[..., 0]
    assert expected.any()
    np.testing.assert_array_equal(mask_of(out, "a"), expected)
    assert not mask_of(out, "b").any()


def test_overlapping_classes_are_ignored_and_reported(
    root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = coco_json(
        FILES[:2],
        (0, 3, [rectangle(0, 0, 4, 6)]),
        (0, 7, [rectangle(3, 0, 6, 6)]),
        (0, 3, [rectangle(0, 0, 2, 6)]),  # one class twice is no conflict
        (1, 3, [rectangle(0, 0, 1, 6)]),
    )
    write(root / "train/_annotations.coco.json", text)
    write(root / "valid/_annotations.coco.json", coco_json(["e.jpg"], (0, 7, [TRIANGLE])))
    for path in ("train/a.jpg", "train/b.jpg", "valid/e.jpg"):
        photo(root / path)
    assert convert(root, out) == 0
    expected = filled((1, (0, 0, 4, 6)), (2, (4, 0, 6, 6)), (255, (3, 0, 4, 6)))
    np.testing.assert_array_equal(mask_of(out, "a"), expected)
    said = capsys.readouterr().out
    assert "ignored because different classes overlap: 6.25 % of train, 0 % of val" in said
    assert "ignored pixels (255): 6.25 % of train, 0 % of val" in said


def test_a_category_named_background_is_class_0(root: Path, out: Path) -> None:
    categories = [{"id": 1, "name": "Background"}, {"id": 2, "name": "crack"}]
    whole, box = [rectangle(0, 0, WIDTH, HEIGHT)], [rectangle(*BOX)]
    text = coco_json(FILES[:2], (0, 2, box), (0, 1, whole), (1, 1, whole), categories=categories)
    write(root / "annotations/all.json", text)
    for name in FILES[:2]:
        photo(root / "images" / name)
    assert convert(root, out) == 0
    assert (out / "classes.txt").read_text() == "background\ncrack\n"
    np.testing.assert_array_equal(mask_of(out, "a"), filled((1, BOX)))


def test_the_report_counts_classes_per_split(
    root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, mask in (("train/a", filled((1, (0, 0, 4, 6)))), ("val/b", filled())):
        folder, stem = name.split("/")
        save(root / folder / f"masks/{stem}.png", mask.astype(bool))
        photo(root / folder / f"images/{stem}.png")
    assert convert(root, out) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "images: 1 train, 1 val (split as the source has it)"
    assert [line.split() for line in said[3:5]] == [
        ["0", "background", "50", "%", "1", "100", "%", "1"],
        ["1", "foreground", "50", "%", "1", "0", "%", "0"],
    ]
    assert said[-2] == f"written: {out}"


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        (
            "CVAT with splits",
            [
                "left out: images of the split test: 1 ({photos}/d.JPG)",
                "left out: images of no split: 1 ({photos}/e.JPG)",
                "left out: other files in {root}/SegmentationObject: 5 .png",
            ],
        ),
        (
            "Roboflow masks",
            ["left out: other files in {root}/test: 1 .csv, 1 .jpg, 1 .png"],
        ),
        (
            "Roboflow COCO",
            [
                "images without outlines, which are all background: 2",
                "left out: annotation files of other splits: 1 "
                "({root}/test/_annotations.coco.json)",
                "left out: categories without outlines: 1 (damage)",
                "left out: other files in {root}/test: 4 .jpg",
            ],
        ),
    ],
)
def test_what_is_left_out_is_said(
    kind: str, lines: list[str], root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = SOURCES[kind](root)
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX/x.png").touch()
    (root / ".DS_Store").touch()
    assert convert(made, out) == 0
    said = capsys.readouterr().out.splitlines()
    photos = root.parent / "photos"
    expected = [line.format(root=root, photos=photos) for line in lines]
    assert [line for line in said if line.startswith(("left out", "images without"))] == expected


def test_files_without_counterpart_and_others_are_counted(
    root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = cvat(root)
    photo(root / "JPEGImages/lonely.jpg")
    photo(root / "JPEGImages/unlisted.jpg")
    save(root / "SegmentationClass/unlisted.png", recolored(labels(0)))
    save(root / "SegmentationClass/orphan.png", recolored(labels(0)))
    (root / "JPEGImages/e.JPG").rename(root / "JPEGImages/e.heic")
    (root / "JPEGImages/Thumbs.db").touch()
    (root / "JPEGImages/._a 1.jpeg").touch()
    write(root / "README", "")
    with (root / "ImageSets/Segmentation/default.txt").open("a") as listing:
        listing.write("lonely\n")
    assert convert(made, out) == 0
    said = capsys.readouterr().out
    for line in (
        f"images without a mask: 1 ({root}/JPEGImages/lonely.jpg)",
        f"masks without an image: 2 ({root}/SegmentationClass/e.png, {root}/Seg",
        f"images in no list: 1 ({root}/JPEGImages/unlisted.jpg)",
        "listed names without an image: 1 (e)",
        f"other files in {root}/JPEGImages: 1 .db, 1 .heic",
        f"other files in {root}: 1 without ending",
    ):
        assert f"left out: {line}" in said


def test_annotations_without_area_are_counted(
    root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outlines: list[object] = [[], None, [[1, 1, 5, 5]], [TRIANGLE, [0, 0, 8, 6]]]
    text = coco_json(FILES, *((i, 3, outline) for i, outline in enumerate(outlines)))
    write(root / "annotations/all.json", text)
    for name in FILES:
        photo(root / "images" / name)
    assert convert(root, out) == 0
    said = capsys.readouterr().out
    assert "annotations without outline (boxes, points, lines): 3 (crack)" in said
    assert "images without outlines, which are all background: 3" in said
    expected = coco_mask.decode(coco_mask.frPyObjects([TRIANGLE], HEIGHT, WIDTH))[..., 0]
    np.testing.assert_array_equal(mask_of(out, "d"), expected)


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (WIDTH, HEIGHT)], ids=["stored", "turned"])
def test_a_mask_may_fit_an_image_as_stored_or_turned(
    shape: tuple[int, int], root: Path, out: Path
) -> None:
    mask = np.zeros(shape, bool)
    mask[0, :3] = True
    for name in ("a", "b"):
        save(root / f"masks/{name}.png", mask)
        image = Image.open(photo(root / f"images/{name}.jpg"))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(root / f"images/{name}.jpg", exif=exif)
    assert convert(root, out) == 0
    np.testing.assert_array_equal(mask_of(out, "a"), mask.astype(np.uint8))
    np.testing.assert_array_equal(mask_of(out, "b"), mask_of(out, "a"))


def test_links_to_folders_are_followed_but_not_in_circles(root: Path, out: Path) -> None:
    made = cvat_coco(root)
    (root / "images").rename(root.parent / "photos")
    (root / "images").mkdir()
    (root / "images/linked").symlink_to(root.parent / "photos")
    (root / "images/back").symlink_to(root)
    assert convert(made, out) == 0
    assert (out / "JPEGImages/a.jpg").is_file()
    assert not (out / "JPEGImages/a.jpg").is_symlink()


def test_an_empty_folder_is_filled(root: Path, out: Path) -> None:
    out.mkdir(parents=True)
    assert convert(cvat(root), out) == 0
    assert (out / "classes.txt").read_text().split() == list(NAMES)


@pytest.mark.parametrize("seed", range(20))
def test_packed_run_lengths_are_read_as_pycocotools_writes_them(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.integers(0, 2, (seed + 1, 3)).repeat(10 * seed + 1, 0).repeat(7, 1)
    assert unpack(packed(mask)) == runs(mask)


def change(file: str, text: str) -> Callable[[Path], object]:
    return lambda root: write(root / file, text)


def coco_with(*annotations: tuple[int, int, object], **more: object) -> Callable[[Path], object]:
    text = coco_json(FILES, *annotations, (0, 3, [TRIANGLE]), **more)
    return change("annotations/instances_default.json", text)


def edit_coco(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(root: Path) -> None:
        file = root / "annotations/instances_default.json"
        content = json.loads(file.read_text())
        edit(content)
        file.write_text(json.dumps(content))

    return apply


def grey_mask(value: int, name: str = "masks/1.tif") -> Callable[[Path], object]:
    return lambda root: save(root / name, np.full((HEIGHT, WIDTH), value, np.uint8))


def nothing(root: Path) -> None:
    pass


def grey(root: Path) -> Made:
    return valued(root, "grey")


def without_options(root: Path) -> Made:
    made = grey(root)
    made.options = []
    return made


def with_options(build: Callable[[Path], Made], *options: str) -> Callable[[Path], Made]:
    def make(root: Path) -> Made:
        made = build(root)
        made.options = [*options]
        return made

    return make


def rle(counts: object, size: list[int] = SIZE) -> dict[str, object]:
    return {"size": size, "counts": counts}


LISTS = "ImageSets/Segmentation"
REFUSED: dict[str, tuple[Callable[[Path], Made], Callable[[Path], object], str]] = {
    "no format": (
        Made,
        change("notes.txt", ""),
        r"in a format that is read.*CVAT.*Roboflow.*COCO.*images \+ masks",
    ),
    "archive": (
        lambda root: Made(root / "export.zip"),
        change("export.zip", ""),
        r"must be unpacked.*export\.zip is not",
    ),
    "absent source": (lambda root: Made(root / "x"), nothing, r"export must exist, .*export/x"),
    "absent images": (with_options(cvat, "--images", "nowhere"), nothing, "--images .* nowhere"),
    "share": (with_options(cvat, "--val", "1"), nothing, "--val must be between 0 and 1, .* 1.0"),
    "values with COCO": (
        with_options(cvat_coco, "--values", "0=a,1=b"),
        nothing,
        "--values must be left out .* COCO",
    ),
    "images with Roboflow": (
        with_options(roboflow_masks, "--images", "."),
        nothing,
        "--images must be left out .* Roboflow",
    ),
    "images with splits": (
        with_options(split_folders, "--images", "."),
        nothing,
        "--images must be left out .*train/images",
    ),
    "file without images": (with_options(coco_file), nothing, r"needs --images DIR.*labels\.json"),
    "unlisted colour": (
        cvat,
        lambda root: save(root / "SegmentationClass/d.png", np.full((HEIGHT, WIDTH, 3), 9, "u1")),
        r"d\.png holds \(9, 9, 9\)",
    ),
    "no colours": (
        cvat,
        change("labelmap.txt", "background:::\ncrack:::\n"),
        r"give each class a colour, but .*labelmap\.txt does not.*\.png is RGB",
    ),
    "transparent colours": (
        cvat,
        lambda root: save(root / "SegmentationClass/d.png", np.zeros((HEIGHT, WIDTH, 4), "u1")),
        r"must be RGB.*d\.png is RGBA",
    ),
    "index of no class": (
        cvat,
        grey_mask(3, "SegmentationClass/d.png"),
        r"must be in the colours of .*, but .*d\.png holds values",
    ),
    "no image folder": (
        cvat,
        lambda root: shutil.rmtree(root / "JPEGImages"),
        "JPEGImages or images, but .*export has neither: .*--images DIR",
    ),
    "list leaves its folder": (
        cvat,
        change(f"{LISTS}/default.txt", "../a\n"),
        r"lie in its folder, but .*default\.txt lists '\.\./a'",
    ),
    "shared image": (
        cvat_with_splits,
        change(f"{LISTS}/Validation.txt", "a 1\n"),
        r"must not share images, but both have .*a 1\.jpeg",
    ),
    "empty split": (
        cvat_with_splits,
        change(f"{LISTS}/Validation.txt", "\n"),
        "at least one labelled image, but val of .*export has none",
    ),
    "two endings": (
        cvat,
        lambda root: photo(root / "JPEGImages/d.png"),
        r"differ in more than their ending, but got .*d\.JPG and .*d\.png",
    ),
    "no pairs": (
        grey,
        lambda root: [path.rename(f"{path}.png") for path in [*(root / "masks").iterdir()]],
        r"of the 4 images and 4 masks of .*export no two have, such as .*0\.webp and .*tif\.png",
    ),
    "no masks": (
        grey,
        lambda root: [path.rename(f"{path}.txt") for path in [*(root / "masks").iterdir()]],
        "of the 4 images and 0 masks",
    ),
    "broken image": (grey, change("images/2.webp", "x"), r"readable image, but .*2\.webp"),
    "broken mask": (grey, change("masks/2.tif", "x"), r"readable image, but .*2\.tif"),
    "lossy mask": (
        grey,
        lambda root: photo((root / "masks/2.tif").replace(root / "masks/2.jpg")),
        r"stored without loss, but .*2\.jpg",
    ),
    "sizes differ": (
        grey,
        lambda root: photo(root / "images/1.webp", size=(5, 5)),
        r"one size, but .*1\.webp is \(5, 5\) and .*1\.tif is \(8, 6\)",
    ),
    "unlisted value": (
        grey,
        grey_mask(5),
        r"masks?/1\.tif holds 5, which --values does not list",
    ),
    "value beyond 16 bits": (
        grey,
        lambda root: save(root / "masks/1.tif", np.full((HEIGHT, WIDTH), 65536 + 7, np.int32)),
        r"masks?/1\.tif holds 65543, which --values does not list",
    ),
    "colours for values": (
        grey,
        lambda root: photo(root / "masks/1.tif"),
        r"one value per pixel.*1\.tif is RGB: .*labelmap\.txt",
    ),
    "values unnamed": (
        without_options,
        nothing,
        r"values named, but .*0\.tif is L and holds 0, 7, 9, 200: say --values",
    ),
    "value twice": (with_options(grey, "--values", "1=a,1=b"), nothing, "--values has 1 twice"),
    "class twice": (with_options(grey, "--values", "1=a,2=a"), nothing, "has 'a' twice"),
    "one class": (with_options(grey, "--values", "1=a"), nothing, "2 to 255 classes, .* has 1"),
    "numbers": (with_options(grey, "--values", "0=0 a,7=1 b"), nothing, "not all begin with num"),
    "large value": (with_options(grey, "--values", "65536=a"), nothing, "65535, .* has 65536"),
    "no value": (with_options(grey, "--values", "0=a,x=b"), nothing, "such as .* got 'x=b'"),
    "no name": (with_options(grey, "--values", "0=a,1"), nothing, "such as .* got '1'"),
    "one image": (
        grey,
        lambda root: [(root / f"images/{i}.webp").unlink() for i in (0, 1, 2)],
        "at least one image each, but .*export has 1",
    ),
    "space at the end": (
        grey,
        lambda root: (
            (root / "images/1.webp").rename(root / "images/1 .webp"),
            (root / "masks/1.tif").rename(root / "masks/1 .tif"),
        ),
        r"one line without spaces at its ends, but got .*/1 \.webp",
    ),
    "classes differ": (
        roboflow_masks,
        change("valid/_classes.csv", "Pixel Value, Class\n0, background\n1, stain\n"),
        r"same classes, but .*train/_classes\.csv and .*valid/_classes\.csv differ",
    ),
    "no header": (
        roboflow_masks,
        change("train/_classes.csv", "0, background\n"),
        r"'Pixel Value, Class', but .*_classes\.csv has \['0'",
    ),
    "no class": (
        roboflow_masks,
        change("train/_classes.csv", "Pixel Value, Class\nbackground\n"),
        r"a value and a class, but .*_classes\.csv has \['background'\]",
    ),
    "malformed": (
        cvat_coco,
        change("annotations/instances_default.json", '{"images": [\n}'),
        r"instances_default\.json must be a COCO annotation file, but Invalid JSON",
    ),
    "no categories": (
        cvat_coco,
        edit_coco(lambda content: content.pop("categories")),
        r"instances_default\.json .*but categories: Field required",
    ),
    "other type": (
        cvat_coco,
        edit_coco(lambda content: content["images"][1].update(width="wide")),
        r"instances_default\.json .*images\.1\.width: .* got 'wide'",
    ),
    "not finite": (
        cvat_coco,
        coco_with((0, 3, [[float("nan")] * 6])),
        r"default\.json .*but annotations\.0\.segmentation.* finite number, got nan",
    ),
    "too many pixels": (
        cvat_coco,
        edit_coco(lambda content: content["images"][1].update(width=10**9)),
        r"at most \d+ pixels, but .*default\.json lists 'b\.jpg' with 1000000000 x 6",
    ),
    "unknown image": (
        cvat_coco,
        edit_coco(lambda content: content["annotations"][0].update(image_id=99)),
        r"listed image, but .*default\.json has one with image_id 99",
    ),
    "unknown category": (
        cvat_coco,
        edit_coco(lambda content: content["annotations"][0].update(category_id=99)),
        r"listed category, but .*default\.json has one with category_id 99",
    ),
    "id twice": (
        cvat_coco,
        edit_coco(lambda content: content["images"].append(content["images"][0])),
        r"image ids must be unique, but .*default\.json has 10 twice",
    ),
    "category twice": (
        cvat_coco,
        edit_coco(lambda content: content["categories"][1].update(name="crack")),
        "different names, but .*export has 'crack' twice",
    ),
    "categories differ": (
        roboflow_coco,
        change("valid/_annotations.coco.json", coco_json([], categories=[{"id": 3, "name": "x"}])),
        r"agree on categories, but .*valid.* calls 3 'x' and another 'crack'",
    ),
    "nothing outlined": (
        cvat_coco,
        change("annotations/instances_default.json", coco_json(FILES, (0, 3, []))),
        r"annotations with outlines, but .*none in .*default\.json",
    ),
    "other size": (
        cvat_coco,
        lambda root: photo(root / "images/c.jpg", size=(5, 5)),
        r"one size, but .*c\.jpg is \(5, 5\) and .*default\.json is \(8, 6\)",
    ),
    "odd polygon": (
        cvat_coco,
        coco_with((0, 3, [[1] * 7])),
        r"json has one of 'a\.jpg'.* 7 numbers",
    ),
    "polygon elsewhere": (cvat_coco, coco_with((0, 3, [[1] * 6 + [1, 1e9]])), "a point at 1e.09"),
    "RLE of other size": (
        cvat_coco,
        coco_with((1, 3, rle([48], [8, 6]))),
        r"'b\.jpg' \(8 x 6 pixels\) with a run-length mask of 6 x 8 pixels",
    ),
    "RLE too short": (cvat_coco, coco_with((0, 3, rle([20, 3]))), "run lengths of 23 pixels"),
    "RLE too long": (cvat_coco, coco_with((0, 3, rle([48, 3]))), "run lengths of 51 pixels"),
    "negative RLE": (cvat_coco, coco_with((0, 3, rle([50, -2]))), "run lengths of 48 pixels"),
    "packed RLE too short": (cvat_coco, coco_with((0, 3, rle("05"))), "run lengths of 5 pixels"),
    "packed RLE cut off": (cvat_coco, coco_with((0, 3, rle("0P"))), "that are cut off"),
    "no packed RLE": (cvat_coco, coco_with((0, 3, rle("0é"))), "run lengths that contain 'é'"),
    "no such image": (
        cvat_coco,
        lambda root: (root / "images/b.jpg").unlink(),
        r"must exist, but .*default\.json lists 'b\.jpg', which is not in .*--images DIR",
    ),
    "ambiguous image": (
        cvat_coco,
        lambda root: photo(root / "more/b.jpg"),
        r"must be one file, but .*lists 'b\.jpg', which may be .*images/b\.jpg or .*more/b\.jpg",
    ),
    "image elsewhere": (
        cvat_coco,
        edit_coco(lambda content: content["images"][0].update(file_name="../a.jpg")),
        r"lie in its folder, but .*default\.json lists '\.\./a\.jpg'",
    ),
    "absolute image": (
        cvat_coco,
        edit_coco(lambda content: content["images"][0].update(file_name="/a.jpg")),
        r"lie in its folder, but .*default\.json lists '/a\.jpg'",
    ),
    "one name": (
        cvat_coco,
        lambda root: [
            photo(root / "images/a.png"),
            edit_coco(lambda content: content["images"][1].update(file_name="a.png"))(root),
        ],
        r"different names, but .*a\.jpg and .*a\.png would both be 'a'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_nothing_is_left(
    case: str, root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, damage, message = REFUSED[case]
    made = build(root)
    damage(root)
    assert convert(made, out) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert re.search(message, said.err), said.err
    assert not out.parent.exists() or not [*out.parent.iterdir()]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_at_out_stays(
    kind: str, root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(out / "kept.txt" if kind == "folder" else out, "mine")
    assert convert(cvat(root), out) == 2
    assert "--out must be a new or empty folder" in capsys.readouterr().err
    assert (out / "kept.txt" if kind == "folder" else out).read_text() == "mine"


def test_a_full_disk_leaves_nothing(
    root: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*paths: Path) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(voc_writer.shutil, "copyfile", full)
    assert convert(cvat(root), out) == 1
    assert "must have room for data, but it is full" in capsys.readouterr().err
    assert not [*out.parent.iterdir()]


def test_without_pycocotools_the_remedy_is_said(
    root: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert convert(cvat_coco(root), out) == 2
    error = capsys.readouterr().err
    assert "needs pycocotools, which is not installed: pip install 'paretoseg[coco]'" in error
    assert error.count("\n") == 1


def test_palettes_that_contradict_each_other_are_refused(
    root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, colors in enumerate(([9, 0, 0, 0, 0, 9], [0, 0, 9, 9, 0, 0])):
        photo(root / f"images/{index}.jpg")
        image = Image.fromarray(labels(index, (0, 1, 2))).convert("P")
        image.putdata(labels(index, (0, 1, 2)).flatten().tolist())
        image.putpalette([0, 0, 0, *colors])
        (root / "masks").mkdir(exist_ok=True)
        image.save(root / f"masks/{index}.png")
    assert main([str(root), "--out", str(out), "--values", "0=a,1=b,2=c"]) == 2
    assert "one colour and a colour one value" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "line", ["{}", "{}.jpg", "/JPEGImages/{}.jpg /SegmentationClass/{}.png", "JPEGImages/{}.jpg"]
)
def test_the_command_that_a_refusal_names_reads_the_same_lists(
    line: str, root: Path, out: Path
) -> None:
    for name in ("a", "b", "c", "d"):
        photo(root / f"JPEGImages/{name}.jpg")
        save(root / f"SegmentationClass/{name}.png", labels(ord(name), (0, 255)))
    for split, names in (("train", "ab"), ("val", "cd")):
        lines = [line.format(name, name) for name in names]
        write(root / f"ImageSets/Segmentation/{split}.txt", "\n".join(lines))
    if not line.startswith("JPEGImages"):
        with pytest.raises(ValueError, match=r"convert .* --values 0=background,255=foreground"):
            assert VocFolder(root, 8).class_names
    values = "0=background,255=foreground"
    assert main([str(root), "--out", str(out), "--values", values]) == 0
    assert listed(out, "train") == ["a", "b"]
    assert VocFolder(out, 8).class_names == ("background", "foreground")


def test_links_that_lead_crosswise_are_followed_once(root: Path, out: Path) -> None:
    for folder, others in (("images/a", ("p", "q")), ("images/b", ("s", "t"))):
        (root / folder).mkdir(parents=True)
        for other in others:
            target = "../b" if folder.endswith("a") else "../a"
            (root / folder / other).symlink_to(target)
    for name in ("x", "y"):
        photo(root / f"images/{name}.jpg")
        save(root / f"masks/{name}.png", labels(1, (0, 1)))
    assert main([str(root), "--out", str(out), "--values", "0=a,1=b"]) == 0
