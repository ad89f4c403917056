"""A few validation images on which networks are looked at: the same ones for all of a data set.

Shape suffixes: N examples, H height, W width, K classes.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from trainables.core.files import replace_file
from trainables.data.augmentation import normalize
from trainables.data.labels import IGNORE
from trainables.data.packed import PackedDataset, images_of
from trainables.models.base import predicted_classes
from trainables.models.model_file import read_model

NUM_EXAMPLES = 8
LEAST_SHARE = 0.002
"""Share of an image's pixels from which a class counts as shown."""

Masks = NDArray[np.uint8]


@dataclass(frozen=True)
class Examples:
    """Images (N,H,W,3), their labels (N,H,W) and what the teacher predicts (N,H,W), if known."""

    images: NDArray[np.uint8]
    truths: Masks
    teacher: Masks | None = None


def open_examples(
    data: PackedDataset, indices: Sequence[int], teacher: Masks | None = None
) -> Examples:
    """The examples of a data set."""
    rows = data.val.take(indices)
    return Examples(rows["image"].numpy(), rows["mask"].numpy(), teacher)


def choose_examples(data: PackedDataset) -> list[int]:
    """The indices of the examples among the validation images.

    The first half spreads over the classes: each shows most of those that no earlier one shows,
    where a class counts by its rarity. The others are the hardest that are left: those with the
    most borders between classes.
    """
    masks = [mask for chunk in data.val.chunks["mask"] for mask in chunk]
    shown = np.array([classes_of(mask, data.num_classes) for mask in masks])
    rarity = 1 / np.maximum(1, shown.sum(0))
    chosen, missing = list[int](), np.ones(data.num_classes, bool)
    for _ in range(min(NUM_EXAMPLES // 2, len(masks))):
        gains = (shown & missing) @ rarity
        gains[chosen] = -1
        best = int(gains.argmax())
        chosen.append(best)
        missing &= ~shown[best]
        if not (shown.any(0) & missing).any():
            missing[:] = True
    borders = np.array([border_share(mask) for mask in masks])
    borders[chosen] = -1
    hardest = np.argsort(-borders, kind="stable")[: NUM_EXAMPLES - len(chosen)]
    return chosen + [int(index) for index in hardest if borders[index] >= 0]


def classes_of(mask: Masks, num_classes: int) -> NDArray[np.bool_]:
    """Which classes (K,) a mask (H,W) shows."""
    counts = np.bincount(mask.ravel(), minlength=256)[:num_classes]
    shown: NDArray[np.bool_] = counts >= LEAST_SHARE * mask.size
    return shown


def border_share(mask: Masks) -> float:
    """The share of neighbouring pixels whose classes differ."""
    differing = 0
    for first, second in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
        labelled = (first != IGNORE) & (second != IGNORE)
        differing += int(((first != second) & labelled).sum())
    return differing / mask.size


@torch.no_grad()
def predict_examples(
    file: Path, data: PackedDataset, indices: Sequence[int], size: tuple[int, int]
) -> Masks:
    """What the network in a model file predicts for the examples, at a height and width.

    `data` has them at the size that the network sees.

    Raises:
        ValueError: the file is damaged.
    """
    model = read_model(file).eval()
    found = []
    for index in indices:
        logits = model(normalize(images_of(data.val.take([index]))))
        predicted = predicted_classes(logits)[:, None].float()
        found.append(F.interpolate(predicted, size)[0, 0].to(torch.uint8).numpy())
    return np.stack(found)


def write_examples(examples: Examples, path: Path) -> None:
    """Keeps examples in a file of NumPy arrays."""
    arrays = {"images": examples.images, "truths": examples.truths}
    if examples.teacher is not None:
        arrays["teacher"] = examples.teacher
    content = BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    replace_file(path, content.getvalue())


def read_examples(path: Path) -> Examples | None:
    """The examples in a file; None where it is absent or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            teacher = arrays.get("teacher", None)
            return Examples(arrays["images"], arrays["truths"], teacher)
    except (OSError, ValueError, LookupError, EOFError, BadZipFile, zlib.error):
        return None
