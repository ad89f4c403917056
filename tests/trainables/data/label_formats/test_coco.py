"""Exports in COCO's format: categories, and annotations without area."""

from pathlib import Path

import numpy as np
import pytest
from label_exports import (
    BOX,
    FILES,
    HEIGHT,
    TRIANGLE,
    WIDTH,
    coco_json,
    convert,
    cvat_coco,
    filled,
    mask_of,
    photo,
    rectangle,
    write,
)
from pycocotools import mask as coco_mask

from trainables.core import optional_dependencies as extras


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


def test_without_pycocotools_the_remedy_is_said(
    root: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert convert(cvat_coco(root), out) == 2
    error = capsys.readouterr().err
    assert "needs pycocotools, which is not installed: pip install 'paretoseg[coco]'" in error
    assert error.count("\n") == 1
