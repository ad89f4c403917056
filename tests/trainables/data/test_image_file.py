"""Images and masks as files: what each kind is read as, and what is refused."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from trainables.data.image_file import (
    is_by_color,
    load,
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
    assert orientation_of(load(path)) == 6


def test_an_orientation_that_does_not_exist_is_none(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    Image.new("RGB", (8, 4)).save(tmp_path / "image.jpg", exif=exif)
    assert orientation_of(load(tmp_path / "image.jpg")) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_orientation_is_that_of_pillow(form: str, orientation: int, tmp_path: Path) -> None:
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "image", form, exif=exif, quality=100)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "image")).convert("RGB")
    turned = np.asarray(read_image(tmp_path / "image")) > 127
    np.testing.assert_array_equal(turned, np.asarray(expected) > 127)
    stored = np.asarray(read_image(tmp_path / "image", turned=False)) > 127
    np.testing.assert_array_equal(stored, pixels > 127)
    assert orientation_of(load(tmp_path / "image")) == orientation


def test_grey_where_zero_is_white_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "grey.tif"
    Image.fromarray(GREYS).save(path, tiffinfo={262: 0})
    with pytest.raises(ValueError, match=r"0 must be black in 16-bit images, but is white in"):
        read_image(path)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_refused(form: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving", form, save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="it holds several pictures"):
        read_image(tmp_path / "moving")


def test_a_stack_of_pages_is_refused_and_a_preview_is_not(tmp_path: Path) -> None:
    page, preview = Image.new("RGB", (8, 4)), Image.new("RGB", (4, 2))
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page])
    page.save(tmp_path / "one.tif", save_all=True, append_images=[preview])
    with pytest.raises(ValueError, match=r"stack\.tif is not: it holds several pictures"):
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


def palette_mask(values: list[int], colors: list[int]) -> Image.Image:
    image = Image.new("P", (len(values), 1))
    image.putdata(values)
    image.putpalette(colors)
    return image


def test_a_palette_that_the_label_map_does_not_know_is_refused(tmp_path: Path) -> None:
    image = palette_mask([0, 1], [0, 0, 0, 128, 0, 0])
    with pytest.raises(ValueError, match=r"holds \(128, 0, 0\), which the label map does not list"):
        read_labels(tmp_path, image, COLORS)
    assert read_labels(tmp_path, image, None).tolist() == [[0, 1]]


def test_what_a_palette_mask_ignores_may_have_any_colour(tmp_path: Path) -> None:
    colors = [0, 0, 0, 0, 0, 255, *[9] * 759, 224, 224, 192]
    image = palette_mask([0, 1, 255], colors)
    assert read_labels(tmp_path, image, COLORS).tolist() == [[0, 2, 255]]


BY_COLOR: dict[str, tuple[Image.Image, bool | None]] = {
    "RGB": (Image.new("RGB", (1, 1)), True),
    "grey of other values": (Image.new("L", (1, 1), 1), False),
    "background in grey": (Image.new("L", (1, 1)), None),
    "one bit": (Image.new("1", (1, 1), 1), False),
    "palette of other colours": (palette_mask([0, 2], [0, 0, 0, 9, 9, 9, 250, 50, 83]), True),
    "palette of the same": (palette_mask([0, 1], [0, 0, 0, 250, 50, 83]), None),
    "palette of greys": (palette_mask([0, 1], [0, 0, 0, 1, 1, 1]), False),
}


@pytest.mark.parametrize("case", BY_COLOR)
def test_whether_colours_or_values_say_the_class(case: str) -> None:
    image, expected = BY_COLOR[case]
    assert is_by_color(image, COLORS) is expected
    assert is_by_color(image, None) is False


@pytest.mark.parametrize("bits", [2, 4])
def test_greys_of_few_bits_keep_their_values(bits: int, tmp_path: Path) -> None:
    values = np.array([[0, 1, 2, 3] * 2], np.uint8)
    path = tmp_path / "mask.png"
    path.write_bytes(png_of(values, bits))
    np.testing.assert_array_equal(read_labels(path, load_mask(path), None), values)


def png_of(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG with few bits a pixel, which Pillow does not write."""
    height, width = values.shape
    unpacked = np.unpackbits(values[..., None], axis=2)[..., -bits:].reshape(height, -1)
    rows = np.packbits(unpacked, axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "RGB"])
def test_values_in_more_channels_are_values(mode: str, tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2]], np.uint8)
    Image.fromarray(labels).convert(mode).save(tmp_path / "mask.png")
    read = read_labels(tmp_path / "mask.png", load_mask(tmp_path / "mask.png"), None)
    np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize(
    ("mode", "remedy"),
    [
        ("RGBA", "without transparency"),
        ("LA", "without transparency"),
        ("I;16", r"convert --values VALUE=NAME"),
    ],
)
def test_what_is_no_mask_names_a_remedy(mode: str, remedy: str, tmp_path: Path) -> None:
    Image.new(mode, (2, 2)).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=remedy):
        read_labels(tmp_path / "mask.png", load_mask(tmp_path / "mask.png"), None)


def test_colours_of_a_palette() -> None:
    image = palette_mask([0, 1], [0, 0, 0, 128, 0, 0, 2, 2, 2])
    assert used_colors(image, [0, 1, 200]) == {0: (0, 0, 0), 1: (128, 0, 0)}
    assert used_colors(image, [0, 2]) == {}  # each is its own grey
    assert used_colors(Image.new("L", (1, 1)), [0]) == {}
