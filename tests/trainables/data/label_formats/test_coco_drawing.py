"""Outlines in COCO's format become masks as pycocotools draws them."""

from pathlib import Path

import numpy as np
import pytest
from label_exports import (
    FILES,
    HEIGHT,
    TRIANGLE,
    WIDTH,
    coco_json,
    convert,
    filled,
    mask_of,
    packed,
    photo,
    rectangle,
    runs,
    write,
)
from pycocotools import mask as coco_mask

from trainables.data.label_formats.coco_drawing import unpack


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


@pytest.mark.parametrize("seed", range(20))
def test_packed_run_lengths_are_read_as_pycocotools_writes_them(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.integers(0, 2, (seed + 1, 3)).repeat(10 * seed + 1, 0).repeat(7, 1)
    assert unpack(packed(mask)) == runs(mask)
