"""What helps quantization-aware training at few bits, by paired differences over seeds.

    python -m benchmarks.few_bits --data FOLDER --out table.md \
        --student s.safetensors --student-builder my_networks:small
    python -m benchmarks.few_bits --data shapes --image-size 48 --augmentation flip \
        --start-epochs 8 --start-rate 4e-3 --epochs 4 --rate 1e-3 --bits W2A4 \
        --untrained "unet_mobilenet_v1 multiplier=0.25" --out table.md

Each quantized student starts from the full-precision student of its seed, which is trained on
labels once, or with `--start-epochs 0` from the network as it came. All rows have as many optimizer
steps. With a teacher the students also learn from its kept outputs, where it is right.
"""

import argparse
from pathlib import Path
from typing import get_args

import torch

from benchmarks.distillation import (
    BATCH_SIZE,
    TERM,
    bring_teacher,
    cells,
    configure,
    network_source,
    train,
)
from benchmarks.timing import describe_machine, markdown
from search.core.recipe_list import parse_compared_students
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.data.configs import AUGMENTATIONS
from trainables.data.packed import open_pack, pack_dataset
from trainables.data.registry import open_source
from trainables.losses.configs import by_name
from trainables.models.configs import WeightSources
from trainables.models.network_source import import_network
from trainables.quantization.quantizers.base import Quantizer
from trainables.quantization.quantizers.configs import Bucketed, Codebook, Dorefa, Lsq, Pact
from trainables.recipes.configs import (
    AdamW,
    CalibrationStep,
    FullPrecisionRecipe,
    Original,
    Qat,
    QatDistill,
    Recipe,
    Supervised,
)
from trainables.training.setup import set_up_weights

PLAIN = "QAT"
CHANGES: dict[str, dict[str, object]] = {
    PLAIN: {},
    "bits lowered in 3 parts": {"bit_descent": 3},
    "dampening 1e-2": {"dampening": 1e-2},
    "BatchNorm estimated again": {"norm_batches": 16},
    "bits lowered, dampening": {"bit_descent": 3, "dampening": 1e-2},
    "PACT": {"quantizer": Pact()},
    "DoReFa": {"quantizer": Dorefa()},
    "learned points": {"quantizer": Codebook()},
    "buckets": {"quantizer": Bucketed()},
}
"""Other fields of the recipe; quantizers get the bits of the row."""


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    store = ArtifactStore(arguments.artifacts)
    data = pack_dataset(open_source(arguments.data, arguments.image_size, store.root), store).path
    run = ExecutionConfig(data=data, artifacts=store.root)
    (student,) = parse_compared_students(arguments.untrained)
    if arguments.student:
        source = network_source(
            arguments.student, arguments.student_builder, arguments, "--compress"
        )
        student = import_network(source).student()
        set_up_weights(run, [student], WeightSources(network=source), print)
    as_it_came = arguments.start_epochs == 0
    trained = Supervised(optimizer=AdamW(learning_rate=arguments.start_rate))
    start: FullPrecisionRecipe = Original() if as_it_came else trained
    start_epochs = arguments.start_epochs or 1

    def configured(recipe: Recipe, seed: int, num_epochs: int) -> TrialConfig:
        named = arguments.augmentation, arguments.class_weights
        return configure(student, recipe, seed, num_epochs, *named)

    def miou(recipe: Recipe, seed: int, num_epochs: int) -> float:
        return train(configured(recipe, seed, num_epochs), run).miou

    taught = ""
    if arguments.teacher:
        run, teacher = bring_teacher(run, configured(Supervised(), 0, 1), arguments)
        taught = f" All rows learn from a teacher of {100 * teacher.miou:.2f} too."

    seeds = range(arguments.seeds)
    starts = [miou(start, seed, start_epochs) for seed in seeds[: 1 if as_it_came else None]]
    rows: list[list[object]] = []
    for bits in arguments.bits:
        weight_bits, activation_bits = map(int, bits.removeprefix("W").split("A"))
        distilled = {"self_study": 0.0, "losses": by_name(TERM)} if arguments.teacher else {}
        lsq = Lsq(weight_bits=weight_bits, activation_bits=activation_bits)
        recipe_class = QatDistill if arguments.teacher else Qat
        qat = recipe_class(
            start=start,
            start_epochs=start_epochs,
            optimizer=AdamW(learning_rate=arguments.rate),
            schedule="cosine",
            quantizer=lsq,
            calibration=tuple(arguments.calibration),
            **distilled,
        )
        plain: dict[int, float] = {}
        for name in arguments.changes:
            change = dict(CHANGES[name])
            if isinstance(other := change.get("quantizer"), Quantizer):
                change["quantizer"] = lsq.of_kind(other.name)
            recipe = qat.replace(**change)
            print(f"{bits} {name}", flush=True)
            found = {seed: miou(recipe, seed, arguments.epochs) for seed in seeds}
            plain = plain or found
            rows.append([bits, name, *cells(found, plain)])
    packed = open_pack(data)
    per_epoch = len(packed.train) // BATCH_SIZE
    length = (
        " as it came"
        if as_it_came
        else f" after {start_epochs * per_epoch} steps of {BATCH_SIZE} images at "
        f"{arguments.start_rate:g}, by seed"
    )
    about = (
        f"Measured on: {describe_machine(torch.device('cpu'))}, one thread. {student.describe()}, "
        f"{len(packed.train)} training and {len(packed.val)} validation images, "
        f"{arguments.image_size} pixels. Full precision{length}: "
        f"{', '.join(f'{100 * end:.2f}' for end in starts)}. Calibration: "
        f"{', '.join(arguments.calibration) or 'plain'}.{taught} Each row: "
        f"{arguments.epochs * per_epoch} quantized steps more at {arguments.rate:g}, cosine, "
        f"class weights {arguments.class_weights}.\n\n"
    )
    heading = ["bits", "training", "mIoU by seed", "mean", "difference to QAT, 95 % interval"]
    arguments.out.write_text(about + markdown(heading, rows))
    print(arguments.out.read_text())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", required=True, help="shapes, or root in VOC layout")
    parser.add_argument("--out", type=Path, required=True, help="gets the table, as Markdown")
    parser.add_argument("--student", help="state dict of a network to quantize")
    parser.add_argument("--student-builder", metavar="MODULE:FUNCTION")
    parser.add_argument("--teacher", help="state dict of a teacher")
    parser.add_argument("--teacher-builder", metavar="MODULE:FUNCTION")
    parser.add_argument("--untrained", default="unet width=8", help="the network without --student")
    parser.add_argument("--normalization", default="symmetric", choices=("imagenet", "symmetric"))
    parser.add_argument("--artifacts", type=Path, default=Path("studies/artifacts"))
    parser.add_argument("--image-size", type=int, default=129)
    parser.add_argument("--augmentation", default="scale", choices=list(AUGMENTATIONS))
    parser.add_argument("--class-weights", default="sqrt", choices=("none", "sqrt"))
    parser.add_argument("--start-epochs", type=int, default=6, help="0: the network as it came")
    parser.add_argument("--start-rate", type=float, default=3e-4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--calibration", nargs="*", default=[], choices=get_args(CalibrationStep), metavar="STEP"
    )
    parser.add_argument("--bits", nargs="+", default=["W3A8", "W2A8"], metavar="W3A8")
    parser.add_argument("--changes", nargs="+", default=list(CHANGES), choices=list(CHANGES))
    arguments = parser.parse_args()
    if arguments.start_epochs == 0 and not arguments.student:
        parser.error("--start-epochs 0 needs --student: another network came untrained")
    return arguments


if __name__ == "__main__":
    main()
