"""Images beside their labels and what networks predict, as pictures.

Shape suffixes: N examples, H height, W width.
"""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainables.core.files import replace_file
from trainables.data.labels import IGNORE, voc_palette
from trainables.training.examples import Examples, Masks

TILE = 192
"""The longest side of an image in a picture, in pixels."""
SMALL = 128
"""The longest side in a page, which must be small; a browser enlarges it."""
GAP, LINE, FONT = 6, 18, 13
EXAMPLES_PER_ROW = 2


def draw_masks(
    examples: Examples, predictions: Masks, class_names: Sequence[str], title: str
) -> Image.Image:
    """Image, label and prediction of each example, with a legend of the classes that occur."""
    font = ImageFont.load_default(FONT)
    tiles = [
        [Image.fromarray(image), paint(truth), paint(predicted)]
        for image, truth, predicted in zip(
            examples.images, examples.truths, predictions, strict=True
        )
    ]
    wide, tall = fitted(tiles[0][0].size, TILE)
    rows = -(-len(tiles) // EXAMPLES_PER_ROW)
    columns = min(len(tiles), EXAMPLES_PER_ROW) * 3
    width = columns * (wide + GAP) + GAP
    entries = legend(examples.truths, predictions, class_names)
    per_line = max(1, width // 150)
    lines = -(-len(entries) // per_line)
    top = 2 * LINE + GAP
    height = top + rows * (tall + GAP) + lines * LINE + GAP
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, GAP), title, "black", font)
    for column in range(columns):
        name = ("image", "label", "prediction")[column % 3]
        draw.text((GAP + column * (wide + GAP), LINE + GAP), name, "black", font)
    for index, tile in enumerate(tiles):
        row, first = divmod(index, EXAMPLES_PER_ROW)
        for offset, part in enumerate(tile):
            method = Image.Resampling.BILINEAR if offset == 0 else Image.Resampling.NEAREST
            place = GAP + (3 * first + offset) * (wide + GAP), top + row * (tall + GAP)
            picture.paste(part.convert("RGB").resize((wide, tall), method), place)
    for index, (name, color) in enumerate(entries):
        line, column = divmod(index, per_line)
        x, y = GAP + column * 150, height - GAP - (lines - line) * LINE
        draw.rectangle((x, y + 2, x + 12, y + 14), color, "black")
        draw.text((x + 18, y), name, "black", font)
    return picture


def paint(mask: Masks) -> Image.Image:
    """A mask (H,W) in VOC's colours."""
    image = Image.fromarray(mask, mode="P")
    image.putpalette(voc_palette().tobytes())
    return image


def fitted(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """A width and a height with this longest side."""
    factor = longest / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def shrunk(size: tuple[int, int]) -> tuple[int, int]:
    """A width and a height for a page."""
    return fitted(size, min(SMALL, max(size)))


def legend(
    truths: Masks, predictions: Masks, class_names: Sequence[str]
) -> list[tuple[str, tuple[int, int, int]]]:
    """The names and the colours of the classes that occur."""
    palette = voc_palette()
    values = np.union1d(np.unique(truths), np.unique(predictions))
    names = dict(enumerate(class_names)) | {IGNORE: "ignored"}
    return [
        (names[value], (int(palette[value][0]), int(palette[value][1]), int(palette[value][2])))
        for value in map(int, values)
        if value in names
    ]


def write_picture(picture: Image.Image, path: Path) -> None:
    """Writes a picture as PNG."""
    content = BytesIO()
    picture.save(content, format="png")
    replace_file(path, content.getvalue())


def image_address(image: Masks) -> str:
    """An image (H,W,3) as the address of a small JPEG, for a page."""
    picture = Image.fromarray(image)
    small = picture.resize(shrunk(picture.size), Image.Resampling.BILINEAR)
    content = BytesIO()
    small.save(content, format="jpeg", quality=70)
    return f"data:image/jpeg;base64,{b64encode(content.getvalue()).decode()}"


def mask_address(mask: Masks) -> str:
    """A mask (H,W) as the address of a small PNG, for a page."""
    picture = paint(mask)
    small = picture.resize(shrunk(picture.size), Image.Resampling.NEAREST)
    content = BytesIO()
    small.save(content, format="png", optimize=True)
    return f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"
