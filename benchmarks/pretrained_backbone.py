"""U-Nets of equal bytes: a plain one, and one on a MobileNetV1 with and without ImageNet weights.

    python -m benchmarks.pretrained_backbone --data FOLDER --backbone-weights FILE --out table.md

FILE holds the weights of a MobileNetV1 with multiplier 0.25, trained on pixels from -1 to 1. All
students are trained on labels alone, in full precision, for equally many steps; each learning
rate is tried with each student and seed.
"""

import argparse
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.timing import describe_machine, markdown
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.metrics import Metrics
from trainables.data.packed import pack_dataset
from trainables.data.registry import open_source
from trainables.models.configs import StudentConfig, UNetConfig, WeightSources
from trainables.models.student_list import parse_students, students_of_file
from trainables.recipes.configs import AdamW, Supervised
from trainables.training.defaults import FLIP_ONLY
from trainables.training.setup import set_up_weights
from trainables.training.trial import Trial

CHANNELS, WIDTH = 16, 6
"""Of the decoder on the backbone, and of the plain U-Net; their files differ by 1 %."""
RATES = (1e-3, 4e-3)


def main() -> None:
    arguments = parse()
    store = ArtifactStore(arguments.artifacts)
    data = pack_dataset(open_source(str(arguments.data), arguments.image_size, store.root), store)
    run = ExecutionConfig(data=data.path, artifacts=store.root)
    students = make_students(arguments.backbone_weights)
    sources = WeightSources(backbones=(arguments.backbone_weights,))
    set_up_weights(run, students.values(), sources, print)
    cases = [
        (name, rate, seed) for seed in range(arguments.seeds) for name in students for rate in RATES
    ]
    configs = [
        TrialConfig(
            student=students[name],
            recipe=Supervised(optimizer=AdamW(learning_rate=rate)),
            augmentation=FLIP_ONLY,
            num_epochs=arguments.epochs,
            seed=seed,
        )
        for name, rate, seed in cases
    ]
    with ProcessPoolExecutor(arguments.workers) as pool:
        found = pool.map(train, configs, [run] * len(configs))
        results = dict(zip(cases, found, strict=True))
    about = (
        f"Measured on: {describe_machine(torch.device('cpu'))}, one thread for each of "
        f"{arguments.workers} trainings at once. {arguments.epochs} epochs of batches of "
        f"{configs[0].batch_size}, longest side {arguments.image_size} pixels, "
        f"{arguments.seeds} seeds.\n\n"
    )
    arguments.out.write_text(about + table(results, students))
    print(arguments.out.read_text())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder in VOC layout")
    parser.add_argument("--backbone-weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="gets the table, as Markdown")
    parser.add_argument("--artifacts", type=Path, default=Path("studies/artifacts"))
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def make_students(weights: Path) -> dict[str, StudentConfig]:
    """The students by their names in the table."""
    (named,) = parse_students("unet_mobilenet_v1")
    (pretrained,) = students_of_file(weights, [named], "symmetric")
    backbone = pretrained.replace(channels=CHANNELS)
    return {
        "plain U-Net": UNetConfig(width=WIDTH),
        "U-Net on MobileNetV1 0.25, random weights": backbone.replace(weights=None),
        "U-Net on MobileNetV1 0.25, ImageNet weights": backbone,
    }


def train(config: TrialConfig, run: ExecutionConfig) -> Metrics:
    metrics = list(Trial(config, run))[-1]
    rate = config.recipe.learning_rate
    print(f"{config.student.describe()} {rate} seed {config.seed}: {metrics.miou}", flush=True)
    return metrics


def table(
    results: dict[tuple[str, float, int], Metrics], students: dict[str, StudentConfig]
) -> str:
    heading = ["student", "bytes", "MACs", *(f"mIoU, learning rate {rate:g}" for rate in RATES)]
    rows: list[list[object]] = []
    for name in students:
        cells: list[object] = []
        for rate in RATES:
            mious = [100 * m.miou for key, m in results.items() if key[:2] == (name, rate)]
            cells.append(f"{statistics.mean(mious):.2f} ± {statistics.stdev(mious):.2f}")
        one = next(metrics for key, metrics in results.items() if key[0] == name)
        rows.append([name, f"{one.size_bytes:,}", f"{one.macs:,}", *cells])
    return markdown(heading, rows)


if __name__ == "__main__":
    main()
