"""Segments images with an exported model: index masks and colour overlays.

python -m search.predict MODEL IMAGE|FOLDER --out DIR
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from search.analysis.masks import draw_masks, write_picture
from trainables.core.command_line import Parser, as_path
from trainables.core.terminal import track
from trainables.data.image_file import load_mask, read_image, read_labels
from trainables.data.labels import IGNORE
from trainables.deploy.model_card import read_model_card
from trainables.deploy.runtime import open_model
from trainables.deploy.segmenter import find_images, left_out, overlay, segment
from trainables.training.evaluation import Scores, confusion_matrix
from trainables.training.examples import Examples, Masks

EXAMPLES = """For IMAGE.jpg, DIR gets IMAGE.png (one class index per pixel, in VOC's palette) and
IMAGE-overlay.jpg, both of the image's own size.

exit status: 0 done; 1 an image or its labels could not be read, the others are done; 2 bad input.
"""


def main(argv: list[str] | None = None) -> int:
    """Segments what the command line names and gives the exit status."""
    arguments = parse(argv)
    try:
        network, card = open_model(arguments.model), read_model_card(arguments.model)
        images = find_images(arguments.images)
        if arguments.out.resolve() == images[0].resolve().parent:
            raise ValueError(
                f"--out must be another folder than the images', but got {arguments.out}"
            )
        if arguments.truth and arguments.truth.resolve() == arguments.out.resolve():
            raise ValueError(
                f"--out must be another folder than the labels', but got {arguments.out}"
            )
        arguments.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    unread, compared = 0, list[Tensor]()
    for path in track(images, "segmenting"):
        try:
            image = read_image(path)
            truth = None
            if arguments.truth is not None:
                truth = read_truth(arguments.truth / f"{path.stem}.png", image.size, card.classes)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            unread += 1
            continue
        try:
            mask = segment(network, card.preprocessing.longest_side, image)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        try:
            mask.save(arguments.out / f"{path.stem}.png")
            overlay(image, mask).save(arguments.out / f"{path.stem}-overlay.jpg", quality=92)
            if truth is not None:
                compared.append(compare(image, truth, mask, card.classes, arguments.out, path.stem))
        except OSError as error:
            print(f"error: --out must be writable, but: {error}", file=sys.stderr)
            return 2
    if compared:
        scores = Scores(torch.stack(compared).sum(0))
        print(f"mIoU {100 * scores.miou:.1f} % on {len(compared)} images with labels")
    print(f"{len(images) - unread} of {len(images)} images segmented in {arguments.out}")
    if others := left_out(arguments.images):
        print(f"left out, because they are no images: {others}")
    return 1 if unread else 0


def read_truth(path: Path, size: tuple[int, int], classes: Sequence[str]) -> Masks:
    """The labels (H,W) of an image.

    Raises:
        ValueError: they are missing, damaged, or not those of an image of this size and these
            classes.
    """
    if not path.is_file():
        raise ValueError(f"--truth must hold the labels of each image, but there is no {path}")
    labels = read_labels(path, load_mask(path), None)
    if labels.shape != size[::-1]:
        found = "x".join(map(str, labels.shape[::-1]))
        raise ValueError(
            f"labels must have the size of their image, {size[0]}x{size[1]}, but {path} has {found}"
        )
    if unknown := sorted(set(np.unique(labels).tolist()) - {*range(len(classes)), IGNORE}):
        raise ValueError(
            f"labels must be below {len(classes)}, the model's number of classes, or {IGNORE}, but "
            f"{path} holds {unknown[0]}"
        )
    return labels


def compare(
    image: Image.Image,
    truth: Masks,
    mask: Image.Image,
    classes: Sequence[str],
    out: Path,
    stem: str,
) -> Tensor:
    """Draws image, labels and prediction beside each other; gives their confusion matrix (K,K)."""
    predicted = np.asarray(mask)
    examples = Examples(np.asarray(image)[None], truth[None])
    write_picture(draw_masks(examples, predicted[None], classes, stem), out / f"{stem}-compare.png")
    pixels, labels = torch.from_numpy(predicted.copy()), torch.from_numpy(truth)
    return confusion_matrix(pixels, labels, len(classes))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m search.predict",
        "Segment images with a model that search.export wrote.",
        EXAMPLES,
    )
    add = parser.add_argument
    add("model", type=as_path, metavar="MODEL", help=".safetensors or .onnx, its card beside it")
    add("images", type=as_path, metavar="IMAGE|FOLDER", help="an image, or a folder of images")
    add(
        "--truth",
        type=as_path,
        metavar="DIR",
        help="labels of the images, as NAME.png: also draws NAME-compare.png, and says the mIoU",
    )
    add("--out", type=as_path, required=True, metavar="DIR", help="gets masks and overlays")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
