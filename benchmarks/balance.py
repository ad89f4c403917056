"""Class weights and length of training: a width-8 U-Net of each, with the IoU of every class.

    python -m benchmarks.balance --data FOLDER --out table.md

All students are trained on labels alone, in full precision. They are scored on all images that no
training sees: those of val.txt, and of test.txt where there is one.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.timing import describe_machine, markdown
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.data.configs import Augmentation
from trainables.data.loader import Loader
from trainables.data.packed import PackedDataset, open_pack, pack_dataset
from trainables.data.registry import open_source
from trainables.losses.configs import Balance, LabelLossConfig
from trainables.models.base import to_device
from trainables.models.configs import UNetConfig
from trainables.models.model_file import MODEL_FILE, read_model
from trainables.recipes.configs import AdamW, Supervised
from trainables.training.evaluation import Scores, evaluate
from trainables.training.trial import train_or_find

FLIPS = Augmentation(min_scale=1, max_scale=1, color=0)
SCALES = Augmentation(min_scale=0.8, max_scale=1.25, color=0.2)
BALANCES: tuple[Balance, ...] = ("none", "sqrt", "enet", "median")
LISTS = "ImageSets/Segmentation"


class Case(NamedTuple):
    """One training; `scales` is whether images are scaled and recoloured."""

    balance: Balance
    num_steps: int
    scales: bool
    seed: int

    @property
    def augmentation(self) -> str:
        return "flips, scales, colour" if self.scales else "flips"


CASES = [
    Case(balance, num_steps, scales=num_steps >= 2000, seed=0)
    for num_steps in (900, 2000, 4000, 8000)
    for balance in BALANCES
] + [
    Case("sqrt", 2000, scales=False, seed=0),
    Case("sqrt", 4000, scales=False, seed=0),
]


class Result(NamedTuple):
    """Scores on the images that no training sees, and the seconds of the training."""

    confusion: Tensor
    seconds: float


def main() -> None:
    arguments = parse()
    store = ArtifactStore(arguments.artifacts)
    with TemporaryDirectory() as folder:
        unseen = link_unseen(arguments.data, Path(folder))
        packs = [
            pack_dataset(open_source(str(data), arguments.image_size, store.root), store).path
            for data in (arguments.data, unseen)
        ]
    run = ExecutionConfig(data=packs[0], artifacts=store.root)
    with ProcessPoolExecutor(arguments.workers) as pool:
        futures = {case: pool.submit(train, case, run, packs[1], arguments.width) for case in CASES}
        results = {case: future.result() for case, future in futures.items()}
    scored = open_pack(packs[1])
    about = (
        f"Measured on: {describe_machine(torch.device('cpu'))}, one thread for each of "
        f"{arguments.workers} trainings at once. U-Net of width {arguments.width}, batches of 8, "
        f"longest side {arguments.image_size} pixels, AdamW with a peak learning rate of 4e-3, "
        f"seed 0; scored on {len(scored.val)} images.\n\n"
    )
    arguments.out.write_text(about + table(results, scored.class_names))
    print(arguments.out.read_text())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="root in VOC layout")
    parser.add_argument("--out", type=Path, required=True, help="gets the table, as Markdown")
    parser.add_argument("--artifacts", type=Path, default=Path("studies/artifacts"))
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def link_unseen(data: Path, folder: Path) -> Path:
    """The same data in another folder, whose validation split also has the images of test.txt."""
    for path in data.iterdir():
        if path.name != "ImageSets":
            (folder / path.name).symlink_to(path.resolve())
    lists = folder / LISTS
    lists.mkdir(parents=True)
    names = {
        split: (data / LISTS / f"{split}.txt").read_text().split()
        for split in ("train", "val", "test")
        if (data / LISTS / f"{split}.txt").is_file()
    }
    (lists / "train.txt").write_text("\n".join(names["train"]))
    (lists / "val.txt").write_text("\n".join(names["val"] + names.get("test", [])))
    return folder


def train(case: Case, run: ExecutionConfig, unseen: Path, width: int) -> Result:
    steps_per_epoch = len(open_pack(run.data).train) // 8
    config = TrialConfig(
        student=UNetConfig(width=width),
        recipe=Supervised(optimizer=AdamW(learning_rate=4e-3)),
        label_loss=LabelLossConfig(class_weights=case.balance),
        augmentation=SCALES if case.scales else FLIPS,
        num_epochs=round(case.num_steps / steps_per_epoch),
        seed=case.seed,
    )
    artifact = train_or_find(config, run, description=str(case))
    scores = score(artifact.path / MODEL_FILE, open_pack(unseen))
    print(f"{case}: {scores.miou}", flush=True)
    return Result(scores.confusion, artifact.seconds)


def score(file: Path, data: PackedDataset) -> Scores:
    """The scores of a model file on the validation split of packed data."""
    network = to_device(read_model(file), torch.device("cpu"))
    val = Loader(data.val, torch.device("cpu"))
    return evaluate(network, val, data.num_classes, own_labels=data.own_labels)


def table(results: dict[Case, Result], class_names: Sequence[str]) -> str:
    heading = ["class weights", "steps", "augmentation", "mIoU", "pixel accuracy", *class_names]
    rows: list[list[object]] = []
    for case, result in results.items():
        scores = Scores(result.confusion)
        hits, labelled = result.confusion.diag(), result.confusion.sum(1)
        ious = hits / (labelled + result.confusion.sum(0) - hits)
        cells = [scores.miou, scores.pixel_accuracy, *ious.tolist()]
        rows.append(
            [
                case.balance,
                f"{case.num_steps:,}",
                case.augmentation,
                *(f"{100 * cell:.1f}" for cell in cells),
            ]
        )
    return markdown(heading, rows)


if __name__ == "__main__":
    main()
