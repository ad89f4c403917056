"""Pruning, distillation and quantization of a trained network, each alone and all together.

    python -m benchmarks.slimnets --data FOLDER --network FILE --out table.md

As in SlimNets (Oguntola et al. 2018) the network itself is the teacher. All students are trained
for equally many optimizer steps; quantized ones have two thirds of them for their start in full
precision.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.distillation import (
    BATCH_SIZE,
    TERM,
    cells,
    network_source,
    train,
    train_each,
)
from benchmarks.few_labels import RATE, Part, configure_part
from benchmarks.timing import describe_machine, markdown
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.data.packed import open_pack, pack_dataset
from trainables.data.registry import open_source
from trainables.losses.configs import by_name
from trainables.models.configs import StudentConfig, WeightSources
from trainables.models.network_source import import_network
from trainables.recipes.configs import Original
from trainables.training.setup import set_up_teacher, set_up_teacher_outputs, set_up_weights


class Steps(NamedTuple):
    """What is done to the network besides training it further on labels."""

    pruned: bool
    distilled: bool
    quantized: bool


NOTHING = Steps(False, False, False)


def main() -> None:
    arguments = parse()
    store = ArtifactStore(arguments.artifacts)
    data = pack_dataset(open_source(arguments.data, arguments.image_size, store.root), store).path
    source = network_source(arguments.network, arguments.builder, arguments, "--compress")
    network = import_network(source).student()
    pruned = network.replace(keep=arguments.keep)
    run = ExecutionConfig(data=data, artifacts=store.root)
    set_up_weights(run, [network, pruned], WeightSources(network=source), print)
    as_it_came = TrialConfig(student=network, recipe=Original(), num_epochs=1)
    run, teacher = set_up_teacher(run, "auto", as_it_came, print)
    seeds = range(arguments.seeds)
    every = [Steps(*each) for each in product((False, True), repeat=3)]
    cases = list(product(seeds, every))
    configs = [
        configure_steps(pruned if steps.pruned else network, steps, seed, arguments)
        for seed, steps in cases
    ]
    run, _ = set_up_teacher_outputs(run, "maps", configs[0].augmentation, print)
    trained = train_each(train, configs, [run] * len(configs), arguments.workers)
    found = dict(zip(cases, trained, strict=True))
    packed = open_pack(data)
    num_steps = arguments.epochs * (len(packed.train) // BATCH_SIZE)
    about = (
        f"Measured on: {describe_machine(torch.device('cpu'))}, one thread for each of "
        f"{arguments.workers} trainings at once. {network.describe()}, "
        f"{teacher.file.stat().st_size:,} bytes, {100 * teacher.miou:.2f} mIoU as it came; pruned: "
        f"{arguments.keep:g} of its channels; quantized: W{arguments.bits}A{arguments.bits}. "
        f"{len(packed.train)} training and {len(packed.val)} validation images, "
        f"{arguments.image_size} pixels, {num_steps} steps of {BATCH_SIZE}, peak learning rate "
        f"{RATE.learning_rate:g}, class weights sqrt, {arguments.augmentation}.\n\n"
    )
    heading = ["pruned", "distilled", "quantized", "bytes", "mIoU by seed", "mean"]
    heading.append("difference to none of them, 95 % interval")
    plain = {seed: found[seed, NOTHING].miou for seed in seeds}
    rows: list[list[object]] = []
    for steps in every:
        mious = plain if steps == NOTHING else {seed: found[seed, steps].miou for seed in seeds}
        done = ["yes" if is_done else "" for is_done in steps]
        rows.append([*done, f"{found[0, steps].size_bytes:,}", *cells(mious, plain)])
    arguments.out.write_text(about + markdown(heading, rows))
    print(arguments.out.read_text())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", required=True, help="shapes, or root in VOC layout")
    parser.add_argument("--network", required=True, help="as --compress of search.run")
    parser.add_argument("--builder", metavar="MODULE:FUNCTION")
    parser.add_argument("--normalization", default="imagenet", choices=("imagenet", "symmetric"))
    parser.add_argument("--out", type=Path, required=True, help="gets the table, as Markdown")
    parser.add_argument("--artifacts", type=Path, default=Path("studies/artifacts"))
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--augmentation", default="flip", choices=("flip", "scale"))
    parser.add_argument("--keep", type=float, default=0.5, help="share of channels")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--workers", type=int, default=1, help="trainings at once")
    return parser.parse_args()


def configure_steps(
    student: StudentConfig, steps: Steps, seed: int, arguments: argparse.Namespace
) -> TrialConfig:
    part = Part(
        terms=by_name(TERM) if steps.distilled else None,
        bits=arguments.bits if steps.quantized else None,
    )
    return configure_part(student, part, seed, arguments.epochs, arguments.augmentation)


if __name__ == "__main__":
    main()
