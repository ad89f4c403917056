"""Segments images with an exported model, at the images' own size."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from trainables.data.augmentation import classes_at, normalize
from trainables.data.image_file import IMAGE_ENDINGS
from trainables.data.labels import voc_palette
from trainables.data.voc import scaled
from trainables.deploy.runtime import Network

OPACITY = 0.55
"""Opacity of the class colours on an overlay."""


def find_images(path: Path) -> Sequence[Path]:
    """The image, or the images of a folder in the order of their names.

    Raises:
        ValueError: there are none, or two would have the same mask file.
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
    """A text with the number of files of each ending in a folder that are not images."""
    files = visible(path) if path.is_dir() else []
    endings = Counter(file.suffix.lower() or "without ending" for file in files)
    others = {ending: count for ending, count in endings.items() if ending not in IMAGE_ENDINGS}
    return ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))


def segment(network: Network, longest_side: int, image: Image.Image) -> Image.Image:
    """The classes of an RGB image, one index per pixel, with VOC's colours as palette.

    The network sees the image with its longest side scaled to `longest_side` pixels.
    """
    size = scaled(image.size, longest_side)
    small = np.array(image.resize(size, Image.Resampling.BILINEAR))
    pixels = normalize(torch.from_numpy(small).permute(2, 0, 1)[None])
    logits = torch.from_numpy(network(np.ascontiguousarray(pixels.numpy())))
    mask = Image.fromarray(classes_at(logits, image.size[::-1]).numpy(), mode="P")
    mask.putpalette(voc_palette().tobytes())
    return mask


def overlay(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The image, blended with the colours of its classes."""
    return Image.blend(image, mask.convert("RGB"), OPACITY)
