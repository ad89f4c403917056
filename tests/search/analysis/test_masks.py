"""Pictures of what networks predict."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.analysis.masks import (
    TILE,
    draw_masks,
    image_address,
    legend,
    mask_address,
    write_picture,
)
from trainables.data.labels import IGNORE, voc_palette
from trainables.training.examples import Examples

NAMES = ("sky", "<b>größe</b>", "road")


def make_examples(count: int, height: int = 30, width: int = 40) -> Examples:
    images = np.full((count, height, width, 3), 200, np.uint8)
    truths = np.ones((count, height, width), np.uint8)
    truths[:, 0] = IGNORE
    return Examples(images, truths)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_image_label_and_prediction_stand_beside_each_other(count: int, tmp_path: Path) -> None:
    examples = make_examples(count)
    predictions = np.full_like(examples.truths, 2)
    picture = draw_masks(examples, predictions, NAMES, "trial 0001, mIoU 50.0 %")
    write_picture(picture, tmp_path / "masks.png")
    with Image.open(tmp_path / "masks.png") as read:
        assert read.size == picture.size
        colors = {color for _, color in read.convert("RGB").getcolors(1 << 20) or ()}
    palette = [tuple(int(part) for part in color) for color in voc_palette()]
    assert {palette[1], palette[2], palette[IGNORE], (200, 200, 200)} <= colors
    assert picture.width > 3 * TILE


def test_the_legend_names_what_occurs() -> None:
    truths = np.array([[0, IGNORE]], np.uint8)
    assert [name for name, _ in legend(truths, np.array([[2, 2]], np.uint8), NAMES)] == [
        "sky",
        "road",
        "ignored",
    ]


def test_addresses_hold_small_pictures() -> None:
    examples = make_examples(1, 300, 400)
    for address in (image_address(examples.images[0]), mask_address(examples.truths[0])):
        kind, content = address.split(";base64,")
        assert kind in ("data:image/jpeg", "data:image/png")
        with Image.open(BytesIO(base64.b64decode(content))) as picture:
            assert picture.size == (128, 96)
        assert len(address) < 2000
