"""Whether distillation from a larger pretrained network pays for a smaller pretrained one.

    python -m benchmarks.distillation --data FOLDER --out table.md \
        --student s.safetensors --student-builder my_networks:small \
        --teacher t.safetensors --teacher-builder my_networks:large

Student and teacher are networks of the user, as search.run takes them by --compress and --teacher.
The student is trained further with each seed on labels alone (the twin), and with the same seeds
and optimizer steps by distillation where the teacher is right. The teacher may see larger images.
"""

import argparse
import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.timing import describe_machine, markdown
from search.analysis.paired_statistics import paired_difference
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.metrics import Metrics
from trainables.data.configs import AUGMENTATIONS, AugmentationName
from trainables.data.packed import open_pack, pack_dataset
from trainables.data.registry import open_source
from trainables.data.voc import VocFolder
from trainables.losses.configs import Balance, LabelLossConfig, Pixelwise, by_name
from trainables.models.configs import NetworkSource, StudentConfig, WeightSources
from trainables.models.model_file import METRICS_FILE
from trainables.models.network_source import import_network
from trainables.recipes.configs import AdamW, Distill, Original, Recipe, Supervised
from trainables.training.setup import set_up_teacher, set_up_teacher_outputs, set_up_weights
from trainables.training.teacher import Teacher
from trainables.training.trial import train_or_find

Result = TypeVar("Result")

BATCH_SIZE = 8
RATE = AdamW(learning_rate=3e-4)
TWIN = "labels alone"


TERM = Pixelwise(weight=1, temperature=1, where="teacher_right", class_weighted=True)


def distill(weight: float, temperature: float) -> Distill:
    term = TERM.replace(weight=weight, temperature=temperature)
    return Distill(optimizer=RATE, losses=by_name(term))


RECIPES: dict[str, Recipe] = {
    TWIN: Supervised(optimizer=RATE),
    "distilled, weight 1, T 1": distill(1, 1),
    "distilled, weight 3, T 2": distill(3, 2),
}


def main() -> None:
    arguments = parse()
    store = ArtifactStore(arguments.artifacts)
    size, teacher_size = arguments.image_size, arguments.teacher_size
    photographs = open_source(str(arguments.data), size, store.root)
    assert isinstance(photographs, VocFolder)
    data = pack_dataset(photographs, store).path
    seen = pack_dataset(photographs.as_teacher_sees(teacher_size), store)
    run = ExecutionConfig(data=data, teacher_data=seen.path, artifacts=store.root)
    source = network_source(arguments.student, arguments.student_builder, arguments, "--compress")
    student = import_network(source).student()
    set_up_weights(run, [student], WeightSources(network=source), print)
    run, teacher = bring_teacher(run, configure(student, RECIPES[TWIN], 0, 1), arguments)
    as_it_came = train(TrialConfig(student=student, recipe=Original(), num_epochs=1), run)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    cases = [(name, seed) for seed in seeds for name in arguments.recipes]
    configs = [configure(student, RECIPES[name], seed, arguments.epochs) for name, seed in cases]
    trained = train_each(train, configs, [run] * len(configs), arguments.workers)
    found = dict(zip(cases, trained, strict=True))
    mious = {name: {seed: found[name, seed].miou for seed in seeds} for name in arguments.recipes}
    packed = open_pack(data)
    num_steps = arguments.epochs * (len(packed.train) // BATCH_SIZE)
    about = (
        f"Measured on: {describe_machine(torch.device('cpu'))}, one thread for each of "
        f"{arguments.workers} trainings at once. {len(packed.train)} training and "
        f"{len(packed.val)} validation images, {size} pixels for the student and {teacher_size} "
        f"for the teacher, which has {100 * teacher.miou:.1f} mIoU; the student has "
        f"{100 * as_it_came.miou:.1f} as it came. {num_steps} steps of {BATCH_SIZE} images, peak "
        f"learning rate {RATE.learning_rate:g}, class weights sqrt, flips, scales and colour.\n\n"
    )
    arguments.out.write_text(about + table(mious))
    print(arguments.out.read_text())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="root in VOC layout")
    parser.add_argument("--out", type=Path, required=True, help="gets the table, as Markdown")
    for network in ("student", "teacher"):
        parser.add_argument(f"--{network}", required=True, help="state dict")
        parser.add_argument(f"--{network}-builder", required=True, metavar="MODULE:FUNCTION")
    parser.add_argument("--normalization", default="symmetric", choices=("imagenet", "symmetric"))
    parser.add_argument("--artifacts", type=Path, default=Path("studies/artifacts"))
    parser.add_argument("--image-size", type=int, default=129)
    parser.add_argument("--teacher-size", type=int, default=257)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="trainings at once")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    return parser.parse_args()


def train_each(
    train: Callable[[TrialConfig, ExecutionConfig], Result],
    configs: Sequence[TrialConfig],
    runs: Sequence[ExecutionConfig],
    num_workers: int,
) -> list[Result]:
    """What `train` gives for each configuration and run, on one thread for each of the workers."""
    # A forked process would wait for threads of PyTorch that it lacks
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, use_one_thread) as pool:
        return list(pool.map(train, configs, runs))


def use_one_thread() -> None:
    torch.set_num_threads(1)


def network_source(
    file: str, builder: str, arguments: argparse.Namespace, flag: str
) -> NetworkSource:
    return NetworkSource(
        file=file, builder=builder, normalization=arguments.normalization, flag=flag
    )


def bring_teacher(
    run: ExecutionConfig, config: TrialConfig, arguments: argparse.Namespace
) -> tuple[ExecutionConfig, Teacher]:
    """A run with the teacher of `--teacher`, whose outputs for a configuration are kept as maps."""
    source = network_source(arguments.teacher, arguments.teacher_builder, arguments, "--teacher")
    run, teacher = set_up_teacher(run, "auto", config, print, source=source)
    run, _ = set_up_teacher_outputs(run, "maps", config.augmentation, print)
    return run, teacher


def configure(
    student: StudentConfig,
    recipe: Recipe,
    seed: int,
    num_epochs: int,
    augmentation: AugmentationName = "scale",
    class_weights: Balance = "sqrt",
) -> TrialConfig:
    return TrialConfig(
        student=student,
        recipe=recipe,
        num_epochs=num_epochs,
        seed=seed,
        batch_size=BATCH_SIZE,
        augmentation=AUGMENTATIONS[augmentation],
        label_loss=LabelLossConfig(class_weights=class_weights),
    )


def train(config: TrialConfig, run: ExecutionConfig) -> Metrics:
    """The last report of a training, which is made once."""
    name = f"{config.recipe.name}, seed {config.seed}"
    artifact = train_or_find(config, run, description=name)
    reports = json.loads((artifact.path / METRICS_FILE).read_bytes())
    metrics = Metrics.model_validate(reports[-1])
    print(f"{name}: {metrics.miou:.4f} after {artifact.seconds:.0f} s", flush=True)
    return metrics


def table(mious: dict[str, dict[int, float]]) -> str:
    heading = ["student", "mIoU by seed", "mean", "difference to labels alone, 95 % interval"]
    rows: list[list[object]] = []
    for name, by_seed in mious.items():
        rows.append([name, *cells(by_seed, mious[TWIN])])
    return markdown(heading, rows)


def cells(by_seed: Mapping[int, float], reference: Mapping[int, float]) -> list[str]:
    """The mIoU of each seed, their mean, and the difference to the reference, if it is another."""
    each = ", ".join(f"{100 * miou:.2f}" for miou in by_seed.values())
    mean = f"{100 * sum(by_seed.values()) / len(by_seed):.2f}"
    difference = None if by_seed is reference else paired_difference(by_seed, reference)
    if difference is None:
        return [each, mean, ""]
    told = f"{100 * difference.mean:+.2f}"
    if difference.interval is not None:
        low, high = (100 * end for end in difference.interval)
        told += f" ({low:+.2f} to {high:+.2f})"
    return [each, mean, told]


if __name__ == "__main__":
    main()
