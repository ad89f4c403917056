"""Exports of labelling tools become the data folder that a search reads, label by label."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_exports import (
    FILES,
    HEIGHT,
    SIZE,
    SOURCES,
    TRIANGLE,
    WIDTH,
    Made,
    coco_file,
    coco_json,
    convert,
    cvat,
    cvat_coco,
    cvat_with_splits,
    filled,
    listed,
    photo,
    roboflow_coco,
    roboflow_masks,
    save,
    split_folders,
    valued,
    write,
)
from PIL import Image

from trainables.data.labels import voc_palette
from trainables.data.voc import VocFolder


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
