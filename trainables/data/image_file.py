"""Image and mask files, read in one way for training, prediction and conversion."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
"""Of the files that are taken for images, in lower case."""
MASK_ENDINGS = (".png", ".bmp", ".gif", ".tif", ".tiff")
EXACT_FORMATS = ("PNG", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of the formats that keep every label as it was drawn."""
INEXACT_COMPRESSIONS = ("jpeg", "tiff_jpeg", "webp", "jpeg2000")
"""Of TIFF files."""
CONVERTIBLE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes of 8 bits a channel whose colours are those of an RGB image."""
DEEP_GREY_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
"""16-bit grey, where 65,535 is white."""
ORIENTATION = 0x0112
"""The EXIF tag that says how an image is turned; 1 is not at all, from 5 on the sides swap."""
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

Color = tuple[int, int, int]
Labels = NDArray[np.uint8]
"""Class indices (H,W); 255 is ignored."""


def load(path: Path) -> Image.Image:
    """The picture in a file as it is stored, decoded.

    Raises:
        ValueError: it cannot be read, or the file holds several pictures of one size.
    """
    with reading(path):
        image = Image.open(path)
        if image.format == "TIFF" and has_other_pages(image):
            raise ValueError("it holds several pages of one size")
        image.load()
    return image


def read_header(path: Path, content: bytes) -> Image.Image:
    """The picture in a file of this content, not decoded: its mode, size and format.

    Raises:
        ValueError: it is no image.
    """
    with reading(path):
        return Image.open(BytesIO(content))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what Pillow raises into a ValueError of one line that names the file."""
    try:
        yield
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"every file must be a readable image, but {path} is not: {reason}"
        ) from error


def has_other_pages(image: Image.Image) -> bool:
    """Whether a TIFF is a stack: smaller pages are previews."""
    size, num_pages = image.size, getattr(image, "n_frames", 1)
    sizes = []
    for page in range(1, num_pages):
        image.seek(page)
        sizes.append(image.size)
    if num_pages > 1:
        image.seek(0)
    return size in sizes


def read_image(path: Path, turned: bool = True) -> Image.Image:
    """An image in RGB, `turned` as its EXIF data says or as it is stored.

    Of 16-bit grey the upper 8 bits count (rounded).

    Raises:
        ValueError: it cannot be read, or its colours are not those of an RGB image.
    """
    image = load(path)
    check_image_mode(path, image.mode)
    if turned:
        image = ImageOps.exif_transpose(image)
    if image.mode in DEEP_GREY_MODES:
        pixels = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way
    return image.convert("RGB")


def check_image_mode(path: Path, mode: str) -> None:
    """Raises ValueError where the values of an image of this mode have no clear meaning."""
    if mode not in (*CONVERTIBLE_MODES, *DEEP_GREY_MODES):
        raise ValueError(
            f"an image must have 8 bits a channel or be 16-bit grey, but {path} has mode {mode}"
        )


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of a decoded image, 1 where it has none."""
    orientation = image.getexif().get(ORIENTATION, 1)
    return orientation if orientation in range(1, 9) else 1


def check_mask_format(path: Path, image: Image.Image) -> None:
    """Raises ValueError where the file format of a mask does not keep labels exactly."""
    compression = image.info.get("compression")
    if image.format in EXACT_FORMATS and compression not in INEXACT_COMPRESSIONS:
        return
    stored = "TIFF with JPEG compression" if image.format == "TIFF" else image.format
    raise ValueError(
        f"a mask must be stored without loss, but {path} is stored as {stored}, which changes "
        "labels: save masks as PNG from the tool that drew them"
    )


def load_mask(path: Path) -> Image.Image:
    """A mask as it is stored.

    Raises:
        ValueError: it cannot be read, or its format changes labels.
    """
    image = load(path)
    check_mask_format(path, image)
    return ImageOps.exif_transpose(image)


def read_labels(path: Path, image: Image.Image, classes: Mapping[Color, int] | None) -> Labels:
    """The class indices of a mask that `load_mask` gave.

    `classes` gives the class of each colour. It decides for RGB masks, and for palette masks whose
    colours it all knows; otherwise a pixel's value is its class.

    Raises:
        ValueError: the mask holds no class indices, or a colour of no class.
    """
    if classes is not None and image.mode in ("P", "RGB"):
        rgb = np.asarray(image.convert("RGB"))
        labels, unknown = labels_of_colors(rgb, classes)
        if unknown is None:
            return labels
        if image.mode == "RGB":
            raise ValueError(
                f"every colour of a mask must be that of a class, but {path} holds {unknown}, "
                "which the label map does not list"
            )
    if image.mode not in ("1", "P", "L"):
        raise ValueError(
            f"a mask must hold one class index per pixel (1-bit, 8-bit grey or palette), but "
            f"{path} is {image.mode}; python -m trainables.convert rewrites colour masks with "
            "their label map"
        )
    return np.asarray(image).astype(np.uint8)


def labels_of_colors(
    rgb: NDArray[np.uint8], classes: Mapping[Color, int]
) -> tuple[Labels, Color | None]:
    """The class of each pixel (H,W) of an image (H,W,3), and a colour of no class if it has one."""
    packed = (rgb.astype(np.uint32) << np.array([16, 8, 0], np.uint32)).sum(2, dtype=np.uint32)
    colors, places = np.unique(packed, return_inverse=True)
    wanted = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in colors]
    unknown = next((color for color in wanted if color not in classes), None)
    values = np.array([classes.get(color, 0) for color in wanted], np.uint8)
    return values[places].reshape(packed.shape), unknown


def used_colors(image: Image.Image, values: Iterable[int]) -> dict[int, Color]:
    """The colours that a palette gives some values; a grey of the value itself says nothing."""
    if image.mode != "P":
        return {}
    palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3).tolist()
    colors = {value: palette[value] for value in values if value < len(palette)}
    return {value: (r, g, b) for value, (r, g, b) in colors.items() if {r, g, b} != {value}}
