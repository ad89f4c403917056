"""Segments images with an exported model: index masks and colour overlays.

python -m search.predict MODEL IMAGE|FOLDER --out DIR
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from search.model_card import ExportCard, read_export_card
from trainables.command_line import Parser
from trainables.data.augmentation import normalize
from trainables.data.voc import scaled
from trainables.progress import track
from trainables.runtime import Network, open_model

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
OPACITY = 0.55
"""Of the colours on an overlay."""
EXAMPLES = """For IMAGE.jpg, DIR gets IMAGE.png (one class index per pixel, in VOC's palette) and
IMAGE-overlay.jpg, both of the image's own size.

exit status: 0 done; 1 an image could not be read, the others are done; 2 bad input.
"""


def main(argv: list[str] | None = None) -> int:
    """Segments what the command line names and gives the exit status."""
    arguments = parse(argv)
    try:
        network, card = open_model(arguments.model), read_export_card(arguments.model)
        images = find_images(arguments.images)
        if arguments.out.resolve() == images[0].resolve().parent:
            raise ValueError(
                f"--out must be another folder than the images', but got {arguments.out}"
            )
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    unread = 0
    for path in track(images, "segmenting"):
        try:
            image = read_image(path)
        except UNREADABLE as error:
            print(f"error: an image must be readable, but {path} is not: {error}", file=sys.stderr)
            unread += 1
            continue
        try:
            mask = segment(network, card, image)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        try:
            mask.save(arguments.out / f"{path.stem}.png")
            overlay(image, mask).save(arguments.out / f"{path.stem}-overlay.jpg", quality=92)
        except OSError as error:
            print(f"error: --out must be writable, but: {error}", file=sys.stderr)
            return 2
    print(f"{len(images) - unread} of {len(images)} images segmented in {arguments.out}")
    return 1 if unread else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m search.predict",
        "Segment images with a model that search.export wrote.",
        EXAMPLES,
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help=".safetensors or .onnx, its card beside it")
    add("images", type=Path, metavar="IMAGE|FOLDER", help="an image, or a folder of images")
    add("--out", type=Path, required=True, metavar="DIR", help="gets masks and overlays")
    return parser.parse_args(argv)


def find_images(path: Path) -> Sequence[Path]:
    """The image, or those of a folder, in order of their names.

    Raises:
        ValueError: there are none, or two would get the same mask.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"images must be a file or a folder, but there is no {path}")
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
    if not found:
        raise ValueError(
            f"a folder must hold images ({', '.join(sorted(ENDINGS))}), but got {path}"
        )
    stems: dict[str, Path] = {}
    for file in found:
        if (other := stems.setdefault(file.stem, file)) != file:
            raise ValueError(
                f"images must differ in more than their ending, but got {other}, {file}"
            )
    return found


def read_image(path: Path) -> Image.Image:
    """An image in RGB, turned as its EXIF data says.

    Raises:
        OSError, ValueError, SyntaxError, DecompressionBombError: it cannot be read.
    """
    with Image.open(path) as image:
        if image.mode == "F" or image.mode.startswith("I"):
            raise ValueError(f"it must have 8 bits a channel, but its mode is {image.mode}")
        return ImageOps.exif_transpose(image).convert("RGB")


def segment(network: Network, card: ExportCard, image: Image.Image) -> Image.Image:
    """The classes of an image, one index per pixel, with VOC's colours as palette."""
    size = scaled(image.size, card.preprocessing.longest_side)
    small = np.array(image.resize(size, Image.Resampling.BILINEAR))
    pixels = normalize(torch.from_numpy(small).permute(2, 0, 1)[None])
    logits = torch.from_numpy(network(np.ascontiguousarray(pixels.numpy())))
    mask = Image.fromarray(classes_at(logits, image.size[::-1]).numpy(), mode="P")
    mask.putpalette(voc_palette().tobytes())
    return mask


def classes_at(logits_1Khw: Tensor, size: tuple[int, int]) -> Tensor:
    """The greatest class (H,W) of logits enlarged to `size`, one class after another in memory."""
    best = torch.full(size, -torch.inf)
    classes = torch.zeros(size, dtype=torch.uint8)
    for index in range(logits_1Khw.shape[1]):
        one = logits_1Khw[:, index : index + 1]
        plane = F.interpolate(one, size, mode="bilinear", align_corners=False)[0, 0]
        classes[plane > best] = index
        best = torch.maximum(best, plane)
    return classes


def overlay(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The image under the colours of its classes."""
    return Image.blend(image, mask.convert("RGB"), OPACITY)


def voc_palette() -> NDArray[np.uint8]:
    """The 256 colours (256,3) of PASCAL VOC's masks: the bits of an index, spread over RGB."""
    index = np.arange(256)
    colors = np.zeros((256, 3), np.int64)
    for place in range(8):
        for channel in range(3):
            colors[:, channel] |= (index >> 3 * place + channel & 1) << 7 - place
    return colors.astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
