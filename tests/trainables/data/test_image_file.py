"""Images and masks as files: what each kind is read as, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables.data.image_file import (
    load_mask,
    orientation_of,
    read_image,
    read_labels,
    used_colors,
)

GREYS = np.array([[0, 128, 257], [4000, 30069, 65535]], np.uint16)
EXPECTED = np.round(GREYS / 257).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bit_grey_is_scaled(ending: str, order: str, tmp_path: Path) -> None:
    path = tmp_path / f"grey.{ending}"
    Image.fromarray(GREYS.astype(order)).save(path)
    pixels = np.asarray(read_image(path))
    np.testing.assert_array_equal(pixels, np.stack([EXPECTED] * 3, axis=2))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_values_without_a_clear_meaning_are_refused(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    Image.new(mode, (4, 3)).save(path)
    with pytest.raises(ValueError, match=rf"16-bit grey, but .*deep\.tif has mode {mode}"):
        read_image(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_usual_images_are_read_in_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    image = Image.new("RGB", (4, 3), (255, 255, 255)).convert(mode)
    image.save(path)
    assert np.asarray(read_image(path)).shape == (3, 4, 3)
    assert (np.asarray(read_image(path)) == np.asarray(image.convert("RGB"))).all()


def test_a_palette_with_transparency_is_read_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "image.png"
    image = Image.new("P", (2, 2))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.save(path, transparency=bytes([0, 128]))
    assert read_image(path).getpixel((0, 0)) == (255, 0, 0)
    assert not recwarn.list


def test_an_image_is_turned_or_not(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    assert read_image(path).size == (4, 8)
    assert read_image(path, turned=False).size == (8, 4)
    assert orientation_of(Image.open(path)) == 6


def test_an_orientation_that_does_not_exist_is_none(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    Image.new("RGB", (8, 4)).save(tmp_path / "image.jpg", exif=exif)
    assert orientation_of(Image.open(tmp_path / "image.jpg")) == 1


def test_a_stack_of_pages_is_refused_and_a_preview_is_not(tmp_path: Path) -> None:
    page, preview = Image.new("RGB", (8, 4)), Image.new("RGB", (4, 2))
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page])
    page.save(tmp_path / "one.tif", save_all=True, append_images=[preview])
    with pytest.raises(ValueError, match=r"stack\.tif is not: it holds several pages"):
        read_image(tmp_path / "stack.tif")
    assert read_image(tmp_path / "one.tif").size == (8, 4)


LOSSY: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {}),
    "JPEG2000": ("JPEG2000", {}),
    "WEBP": ("WEBP", {}),
    "TIFF with JPEG compression": ("TIFF", {"compression": "jpeg"}),
}


@pytest.mark.parametrize("name", LOSSY)
def test_a_mask_stored_with_loss_is_refused(name: str, tmp_path: Path) -> None:
    form, options = LOSSY[name]
    path = tmp_path / "mask.png"
    Image.new("L" if form != "WEBP" else "RGB", (8, 8)).save(path, form, **options)
    with pytest.raises(ValueError, match=rf"mask\.png is stored as {name}, which changes labels"):
        load_mask(path)


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF"])
def test_a_mask_stored_without_loss_keeps_its_labels(form: str, tmp_path: Path) -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(labels).save(tmp_path / "mask", form)
    read = read_labels(tmp_path / "mask", load_mask(tmp_path / "mask"), None)
    np.testing.assert_array_equal(read, labels)


def test_one_bit_is_two_classes(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [1, 0]], np.uint8)
    Image.fromarray(labels * 255).convert("1").save(tmp_path / "mask.png")
    mask = load_mask(tmp_path / "mask.png")
    assert mask.mode == "1"
    np.testing.assert_array_equal(read_labels(tmp_path / "mask.png", mask, None), labels)


COLORS = {(0, 0, 0): 0, (250, 50, 83): 1, (0, 0, 255): 2, (255, 255, 255): 255}


def test_colours_are_classes(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [255, 2, 1]], np.uint8)
    by_class = {index: color for color, index in COLORS.items()}
    pixels = np.array([[by_class[int(value)] for value in row] for row in labels], np.uint8)
    path = tmp_path / "mask.png"
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).quantize(4)):
        image.save(path)
        np.testing.assert_array_equal(read_labels(path, load_mask(path), COLORS), labels)


def test_a_colour_of_no_class_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"mask\.png holds \(1, 2, 3\), which the label map"):
        read_labels(tmp_path / "mask.png", load_mask(tmp_path / "mask.png"), COLORS)


def test_a_palette_that_the_label_map_does_not_know_leaves_indices(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2), 1)
    image.putpalette([9, 9, 9, 128, 0, 0])
    image.save(tmp_path / "mask.png")
    read = read_labels(tmp_path / "mask.png", load_mask(tmp_path / "mask.png"), COLORS)
    assert (read == 1).all()


def test_colours_of_a_palette() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 128, 0, 0, 2, 2, 2])
    assert used_colors(image, [0, 1, 2, 200]) == {1: (128, 0, 0)}
    assert used_colors(Image.new("L", (1, 1)), [0]) == {}
