"""The mIoU of a trained network after each way to calibrate it, at several bit-widths.

    python -m benchmarks.calibration --model FILE --data FOLDER --out calibration.md

FILE is a full-precision model file of this project, or the weights (safetensors) of the network
that `--builder package.module:function` gives. Images are stretched to a square; nothing is
trained. "Flipped" is the share of pixels whose class differs from that of full precision.
"""

import argparse
import copy
import importlib
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.timing import describe_machine, markdown
from trainables.data.augmentation import MEAN, STD, resize
from trainables.data.base import Split
from trainables.data.voc import VocFolder
from trainables.models.model_file import read_model
from trainables.quantization.quantizers.configs import Lsq, QuantizerName
from trainables.recipes.configs import CalibrationStep
from trainables.recipes.quantized_start import CALIBRATION_IMAGES, quantize
from trainables.training.evaluation import Scores, confusion_matrix

BATCH_SIZE = 8
METHODS: dict[str, tuple[CalibrationStep, ...]] = {
    "plain": (),
    "equalized": ("equalization",),
    "bias-corrected": ("bias_correction",),
    "equalized, bias-corrected": ("equalization", "bias_correction"),
    "AdaRound": ("adaround",),
    "AdaRound, bias-corrected": ("adaround", "bias_correction"),
    "equalized, AdaRound, bias-corrected": ("equalization", "adaround", "bias_correction"),
}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    samples = Samples(arguments.data, arguments.image_size, arguments.mean, arguments.std)
    network = load_network(arguments.model, arguments.builder)
    count = len(samples.folder.entries["train"])
    chosen = torch.linspace(0, count - 1, min(CALIBRATION_IMAGES, count)).int().tolist()
    calibration = torch.stack([samples.image("train", index) for index in chosen])
    expected = predictions(network, samples, arguments.every)
    about = (
        f"Measured on: {describe_machine(torch.device('cpu'))}, {arguments.threads} threads. "
        f"{arguments.model.name}, {arguments.image_size}x{arguments.image_size} pixels, "
        f"{len(expected)} validation images, {len(calibration)} for calibration. "
        f"Full precision: {100 * score(expected, samples, arguments.every):.2f} mIoU.\n\n"
    )
    heading = ["calibration", "`--quantizer`"]
    heading += [f"{bits}: mIoU (flipped; s)" for bits in arguments.bits]
    rows: list[list[object]] = []
    for name, kind in product(arguments.methods, arguments.quantizers):
        cells: list[object] = []
        for bits in arguments.bits:
            weight_bits, activation_bits = map(int, bits.removeprefix("W").split("A"))
            lsq = Lsq(weight_bits=weight_bits, activation_bits=activation_bits)
            begin = time.perf_counter()
            start = copy.deepcopy(network)
            quantized = quantize(start, lsq.of_kind(kind), METHODS[name], calibration)
            seconds = time.perf_counter() - begin
            got = predictions(quantized, samples, arguments.every)
            flipped = float((got != expected).float().mean())
            miou = score(got, samples, arguments.every)
            cells.append(f"{100 * miou:.2f} ({100 * flipped:.1f} %; {seconds:.0f})")
            print(f"{name} {kind} {bits}: {cells[-1]}", flush=True)
        rows.append([name, f"`{kind}`", *cells])
        arguments.out.write_text(about + markdown(heading, rows))
    print(arguments.out.read_text())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--builder", help="package.module:function that gives the network")
    parser.add_argument("--data", type=Path, required=True, help="folder in VOC layout")
    parser.add_argument("--out", type=Path, required=True, help="gets the table, as Markdown")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--quantizers", nargs="+", default=["lsq"], choices=get_args(QuantizerName))
    parser.add_argument("--bits", nargs="+", default=["W8A8", "W4A8", "W4A4"], metavar="W4A8")
    parser.add_argument("--image-size", type=int, default=257)
    parser.add_argument("--every", type=int, default=1, help="validation image that is used")
    parser.add_argument("--mean", type=float, nargs=3, default=MEAN, help="of images in [0, 1]")
    parser.add_argument("--std", type=float, nargs=3, default=STD)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


class Samples:
    """The images and labels of a folder, stretched to a square."""

    def __init__(self, data: Path, size: int, mean: list[float], std: list[float]) -> None:
        self.folder, self.size = VocFolder(data, size), (size, size)
        self.mean, self.std = (torch.tensor(list(v)).view(3, 1, 1) for v in (mean, std))

    def image(self, split: Split, index: int) -> Tensor:
        """A normalised image (3,H,W)."""
        with Image.open(self.folder.entries[split][index].image) as file:
            pixels = np.asarray(file.convert("RGB").resize(self.size, Image.Resampling.BILINEAR))
        return (torch.from_numpy(pixels / np.float32(255)).permute(2, 0, 1) - self.mean) / self.std

    def labels(self, split: Split, index: int) -> Tensor:
        """Labels (H,W), uint8, of a mask that stores class indices."""
        with Image.open(self.folder.entries[split][index].mask) as file:
            return torch.from_numpy(np.array(file.resize(self.size, Image.Resampling.NEAREST)))

    def chosen(self, every: int) -> range:
        """The rows of the validation split that are used."""
        return range(0, len(self.folder.entries["val"]), every)


def load_network(model: Path, builder: str | None) -> nn.Module:
    """The trained network, in evaluation mode."""
    if builder is None:
        return read_model(model).eval()
    module, _, function = builder.partition(":")
    network = getattr(importlib.import_module(module), function)()
    assert isinstance(network, nn.Module)
    network.load_state_dict(load_file(model))
    return network.eval()


@torch.no_grad()
def predictions(network: nn.Module, samples: Samples, every: int) -> Tensor:
    """Classes (N,H,W), uint8, of the chosen validation images."""
    network.eval()
    found = []
    for rows in batches(samples.chosen(every)):
        images = torch.stack([samples.image("val", index) for index in rows])
        found.append(resize(network(images), samples.size).argmax(1).to(torch.uint8))
    return torch.cat(found)


def score(predicted: Tensor, samples: Samples, every: int) -> float:
    """The mIoU of predictions."""
    num_classes = len(samples.folder.class_names)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for classes, index in zip(predicted, samples.chosen(every), strict=True):
        labels = samples.labels("val", index)
        confusion += confusion_matrix(classes[None], labels[None], num_classes)
    return Scores(confusion).miou


def batches(rows: range) -> Iterator[range]:
    return (rows[start : start + BATCH_SIZE] for start in range(0, len(rows), BATCH_SIZE))


if __name__ == "__main__":
    main()
