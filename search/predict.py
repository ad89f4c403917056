"""Segments images with an exported model: index masks and colour overlays.

python -m search.predict MODEL IMAGE|FOLDER --out DIR
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from search.model_card import ExportCard, read_export_card
from trainables.command_line import Parser, as_path
from trainables.data.augmentation import normalize
from trainables.data.image_file import IMAGE_ENDINGS, read_image
from trainables.data.labels import voc_palette
from trainables.data.voc import scaled
from trainables.progress import track
from trainables.runtime import Network, open_model

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
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
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
    if others := left_out(arguments.images):
        print(f"left out, because they are no images: {others}")
    return 1 if unread else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m search.predict",
        "Segment images with a model that search.export wrote.",
        EXAMPLES,
    )
    add = parser.add_argument
    add("model", type=as_path, metavar="MODEL", help=".safetensors or .onnx, its card beside it")
    add("images", type=as_path, metavar="IMAGE|FOLDER", help="an image, or a folder of images")
    add("--out", type=as_path, required=True, metavar="DIR", help="gets masks and overlays")
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
    found = sorted(file for file in visible(path) if file.suffix.lower() in IMAGE_ENDINGS)
    if not found:
        holds = f", which holds {others}" if (others := left_out(path)) else ""
        raise ValueError(
            f"a folder must hold images ({', '.join(IMAGE_ENDINGS)}), but got {path}{holds}"
        )
    stems: dict[str, Path] = {}
    for file in found:
        if (other := stems.setdefault(file.stem, file)) != file:
            raise ValueError(
                f"images must differ in more than their ending, but got {other}, {file}"
            )
    return found


def visible(folder: Path) -> list[Path]:
    """The files of a folder that are not hidden."""
    return [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]


def left_out(path: Path) -> str:
    """How many files of each ending a folder holds that are not taken for images, in words."""
    files = visible(path) if path.is_dir() else []
    endings = Counter(file.suffix.lower() or "without ending" for file in files)
    others = {ending: count for ending, count in endings.items() if ending not in IMAGE_ENDINGS}
    return ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))


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


if __name__ == "__main__":
    sys.exit(main())
