"""Reads image and mask files, by the same code for training, prediction and conversion."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from trainables.data.labels import IGNORE

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
"""File name endings of images, in lower case."""
MASK_ENDINGS = (".png", ".bmp", ".gif", ".tif", ".tiff")
EXACT_FORMATS = ("PNG", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of the lossless formats."""
INEXACT_COMPRESSIONS = ("jpeg", "tiff_jpeg", "webp", "jpeg2000")
"""Lossy compressions of TIFF files."""
CONVERTIBLE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes of 8 bits a channel whose colours are those of an RGB image."""
DEEP_GREY_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
"""16-bit grey, where 65,535 is white."""
LEVELS = {"L;2": 85, "L;4": 17}
"""Pillow's raw modes of grey with 2 and 4 bits, whose values it spreads over 8 bits."""
SEQUENCES = ("TIFF", "GIF", "WEBP", "PNG")
"""Formats that may hold several pictures; in others a second one is a preview."""
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
ORIENTATION = 0x0112
"""The EXIF tag of the orientation."""
Turn = Image.Transpose
TURNED = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
"""The transposition of each orientation; and its inverse:"""
TURNED_BACK = TURNED | {6: Turn.ROTATE_90, 8: Turn.ROTATE_270}
TURN, STEP = "paretoseg.orientation", "paretoseg.step"
"""Keys that `load` adds to an image's info: its orientation, and the step of its grey levels."""
REMEDIES = {
    "RGB": "colours need a labelmap.txt in the data folder, with lines of NAME:RED,GREEN,BLUE::",
    "RGBA": "save it without transparency",
    "LA": "save it without transparency",
    "I;16": "python -m trainables.convert --values VALUE=NAME,... rewrites masks of more bits",
}
"""By Pillow's mode, the remedy for a mask that cannot be read."""
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

Color = tuple[int, int, int]
Labels = NDArray[np.uint8]
"""Class indices (H,W); 255 is ignored."""


def load(path: Path, content: bytes | None = None) -> Image.Image:
    """The picture in a file as it is stored, decoded; with `content`, in a file that holds this.

    Raises:
        ValueError: it cannot be read, or the file holds several pictures of one size.
    """
    with reading(path):
        image: Image.Image = Image.open(path if content is None else BytesIO(content))
        if image.format in SEQUENCES and has_other_pages(image):
            raise ValueError("it holds several pictures of one size")
        levels = LEVELS.get(raw_mode(image), 1)
        if image.format == "TIFF":  # Pillow rotates TIFF files when it decodes them
            orientation = image.getexif().get(ORIENTATION, 1)
            image.load()
            if orientation in TURNED_BACK:
                image = image.transpose(TURNED_BACK[orientation])
        else:
            image.load()
            orientation = image.getexif().get(ORIENTATION, 1)
    image.info |= {TURN: orientation if orientation in TURNED else 1, STEP: levels}
    return image


def raw_mode(image: Image.Image) -> str:
    """Pillow's raw mode of a file that is not decoded yet; "" if it is not known."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0].args if tiles else ()
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def has_other_pages(image: Image.Image) -> bool:
    """Whether a file is a stack or an animation; smaller pages count as previews."""
    size, num_pages = image.size, getattr(image, "n_frames", 1)
    sizes = []
    for page in range(1, num_pages):
        image.seek(page)
        sizes.append(image.size)
    if num_pages > 1:
        image.seek(0)
    return size in sizes


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an image from `load`: 1 is upright, from 5 on the sides swap."""
    return int(image.info.get(TURN, 1))


def turn(image: Image.Image) -> Image.Image:
    """An image from `load`, rotated by its EXIF orientation."""
    orientation = orientation_of(image)
    return image if orientation == 1 else image.transpose(TURNED[orientation])


def read_image(path: Path, turned: bool = True, content: bytes | None = None) -> Image.Image:
    """An image in RGB, rotated by its EXIF orientation if `turned`, else as stored.

    With `content`, what the file holds, only the name of `path` is used.

    Raises:
        ValueError: it cannot be read, or its colours are not those of an RGB image.
    """
    image = load(path, content)
    check_image_mode(path, image)
    return to_rgb(turn(image) if turned else image)


def peak_of(image: Image.Image) -> int | None:
    """The greatest value of a 16-bit grey image; None of another."""
    return int(np.asarray(image).max()) if image.mode in DEEP_GREY_MODES else None


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of a mode that `check_image_mode` accepts to RGB, the upper 8 bits kept."""
    if image.mode in DEEP_GREY_MODES:
        pixels = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about a direct conversion
    return image.convert("RGB")


def check_image_mode(path: Path, image: Image.Image) -> None:
    """Raises ValueError where the values of an image of this mode have no clear meaning."""
    mode = image.mode
    if mode not in (*CONVERTIBLE_MODES, *DEEP_GREY_MODES):
        raise ValueError(
            f"an image must have 8 bits a channel or be 16-bit grey, but {path} has mode {mode}"
        )
    tags = getattr(image, "tag_v2", None) or {}  # of a TIFF
    if mode in DEEP_GREY_MODES and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise ValueError(f"0 must be black in 16-bit images, but is white in {path}")


def read_header(path: Path, content: bytes) -> Image.Image:
    """The image in a file of this content, not decoded: its mode, size and format.

    Raises:
        ValueError: it is no image.
    """
    with reading(path):
        return Image.open(BytesIO(content))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns an error of Pillow into a ValueError of one line that names the file."""
    try:
        yield
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        if isinstance(error, UnidentifiedImageError):
            reason = "its format is none that can be read"
        raise ValueError(
            f"every file must be a readable image, but {path} is not: {reason}"
        ) from error


def check_mask_format(path: Path, image: Image.Image) -> None:
    """Raises ValueError where the file format of a mask is lossy."""
    compression = image.info.get("compression")
    if image.format in EXACT_FORMATS and compression not in INEXACT_COMPRESSIONS:
        return
    stored = "TIFF with JPEG compression" if image.format == "TIFF" else image.format
    raise ValueError(
        f"a mask must be stored without loss, but {path} is stored as {stored}, which changes "
        "labels: save masks as PNG from the tool that drew them"
    )


def load_mask(path: Path) -> Image.Image:
    """A mask as it is stored, without an alpha channel that is opaque.

    Raises:
        ValueError: it cannot be read, or its format is lossy.
    """
    image = load(path)
    check_mask_format(path, image)
    if image.mode in ("LA", "RGBA") and image.getextrema()[-1] == (255, 255):
        opaque = image.convert(image.mode[:-1])
        opaque.info |= image.info
        return opaque
    return image


def is_by_color(image: Image.Image, classes: Mapping[Color, int] | None) -> bool | None:
    """Whether `read_labels` takes the classes of a mask from its colours, not from its values.

    None where both give the same classes.
    """
    if classes is None or image.mode not in ("1", "L", "P", "RGB"):
        return False
    if image.mode == "RGB":
        return True
    values = [int(value) for value in np.unique(np.asarray(image)) if value != IGNORE]
    colors = used_colors(image, values)
    shown = colors or {value: (value, value, value) for value in values}
    if all(classes.get(color) == value for value, color in shown.items()):
        return None
    return bool(colors)


def read_labels(path: Path, image: Image.Image, classes: Mapping[Color, int] | None) -> Labels:
    """The class indices of a mask from `load_mask`.

    `classes` gives the class of each colour, for RGB masks and those whose palette has colours;
    otherwise a pixel's value is its class.

    Raises:
        ValueError: the mask holds no class indices, or a colour of no class.
    """
    if classes is not None and is_by_color(image, classes):
        return read_colors(path, image, classes)
    step = image.info.get(STEP, 1)
    image = without_equal_channels(image)
    if image.mode not in ("1", "P", "L"):
        raise ValueError(
            f"a mask must hold one class index per pixel (1-bit, 8-bit grey or palette), but "
            f"{path} is {image.mode}; {REMEDIES.get(image.mode, REMEDIES['I;16'])}"
        )
    labels: Labels = np.asarray(image).astype(np.uint8) // np.uint8(step)
    return labels


def without_equal_channels(image: Image.Image) -> Image.Image:
    """A mask whose grey values were saved in RGB, as a grey image."""
    if image.mode != "RGB":
        return image
    red, green, blue = image.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else image


def read_colors(path: Path, image: Image.Image, classes: Mapping[Color, int]) -> Labels:
    """The classes of a mask's colours; in a palette, the ignored value may have any colour."""
    labels, unknown = labels_of_colors(np.asarray(image.convert("RGB")), classes)
    if image.mode == "P":
        values = np.asarray(image)
        labels[values == IGNORE] = IGNORE
        used = used_colors(image, np.unique(values[values != IGNORE]).tolist())
        unknown = next((color for color in used.values() if color not in classes), None)
    if unknown is not None:
        raise ValueError(
            f"every colour of a mask must be that of a class, but {path} holds {unknown}, which "
            "the label map does not list (without a label map, values of palette masks are indices)"
        )
    return labels


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
    """The colours that a palette gives some values; none if all are the greys of the values."""
    if image.mode != "P":
        return {}
    palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3).tolist()
    known = {value: palette[value] for value in values if value < len(palette)}
    colors: dict[int, Color] = {value: (r, g, b) for value, (r, g, b) in known.items()}
    return colors if any(set(color) != {value} for value, color in colors.items()) else {}
