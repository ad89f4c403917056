"""The same student by every recipe at equal device seconds: mIoU and bytes, several seeds.

    python -m benchmarks.compression --data FOLDER --out results.json --table table.md

"Two cycles" is the full-precision baseline of quantized students: pretrained and trained further.
The seconds that a quantized student's full-precision start cost count as its own. How many epochs a
recipe can afford is derived from the seconds of one epoch, measured one after another beforehand.
"""

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal

import torch

from benchmarks.timing import describe_machine
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.data.packed import pack_dataset
from trainables.data.registry import open_source
from trainables.losses.configs import Pairwise, Pixelwise, by_name
from trainables.models.configs import UNetConfig
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import AdamW, Distill, Ptq, Qat, QatDistill, Recipe, Supervised
from trainables.teachers.output_cache import Form, cache_outputs
from trainables.training.defaults import FLIP_ONLY
from trainables.training.teacher import prepare_teacher
from trainables.training.trial import Trial, train_or_find

PIXEL = by_name(Pixelwise(weight=1, temperature=2))
PAIR = by_name(Pixelwise(weight=1, temperature=2), Pairwise(weight=1))
FULL_RATE = AdamW(learning_rate=4e-3)
FINE_RATE = AdamW(learning_rate=3e-3)
START_SHARE = 2 / 3
"""Share of a quantized student's seconds for its full-precision pretraining."""
TEACHER = TrialConfig(
    student=UNetConfig(width=16),
    recipe=Supervised(optimizer=AdamW(learning_rate=2e-3)),
    augmentation=FLIP_ONLY,
    num_epochs=60,
)


def ptq(weight_bits: int, activation_bits: int) -> Ptq:
    bits = Lsq(weight_bits=weight_bits, activation_bits=activation_bits)
    return Ptq(start=Supervised(optimizer=FULL_RATE), quantizer=bits)


def qat(weight_bits: int, activation_bits: int) -> Qat:
    bits = Lsq(weight_bits=weight_bits, activation_bits=activation_bits)
    return Qat(start=Supervised(optimizer=FULL_RATE), optimizer=FINE_RATE, quantizer=bits)


def qat_kd(weight_bits: int, activation_bits: int) -> QatDistill:
    return QatDistill(
        start=Supervised(optimizer=FULL_RATE),
        optimizer=FINE_RATE,
        quantizer=Lsq(weight_bits=weight_bits, activation_bits=activation_bits),
        losses=PIXEL,
        self_study=0.15,
    )


RECIPES: dict[str, Recipe] = {
    "supervised": Supervised(optimizer=FULL_RATE),
    "KD (pixel)": Distill(optimizer=FULL_RATE, losses=PIXEL),
    "KD (pixel + pair)": Distill(optimizer=FULL_RATE, losses=PAIR),
    "two cycles, not quantized": qat(32, 32),
    "PTQ W8A8": ptq(8, 8),
    "PTQ W4A8": ptq(4, 8),
    "PTQ W4A4": ptq(4, 4),
    "QAT W8A8": qat(8, 8),
    "QAT W4A4": qat(4, 4),
    "QAT W2A4": qat(2, 4),
    "QAT and KD W8A8": qat_kd(8, 8),
    "QAT and KD W4A4": qat_kd(4, 4),
    "QAT and KD W2A4": qat_kd(2, 4),
}


def main() -> None:
    arguments = parse()
    store = ArtifactStore(arguments.artifacts)
    data = pack_dataset(open_source(str(arguments.data), arguments.image_size, store.root), store)
    run = ExecutionConfig(data=data.path, artifacts=store.root)
    teacher = prepare_teacher(run, arguments.teacher, TEACHER)
    run = run.replace(teacher=teacher.file)
    form: Form | Literal["live"] = arguments.teacher_outputs
    if form != "live":
        run = run.replace(teacher_outputs=cache_outputs(run, form, FLIP_ONLY))
    base = TrialConfig(
        student=UNetConfig(width=arguments.width),
        recipe=Supervised(),
        augmentation=FLIP_ONLY,
    )
    recipes = {name: RECIPES[name] for name in ("supervised", *arguments.recipes)}
    trained = {name: recipe for name, recipe in recipes.items() if not recipe.only_calibrates}
    seconds = {name: epoch_seconds(base, recipe, run) for name, recipe in trained.items()}
    budget = arguments.epochs * seconds["supervised"]
    jobs = [
        (name, affordable(base.replace(seed=seed), recipe, seconds, name, budget), run)
        for seed in range(arguments.seeds)
        for name, recipe in recipes.items()
    ]
    result: dict[str, object] = {
        "machine": describe_machine(torch.device("cpu")),
        "workers": arguments.workers,
        "teacher": {"note": teacher.note, "miou": teacher.miou, "outputs": form},
        "epoch_seconds": seconds,
    }
    rows: list[dict[str, object]] = []
    warm_starts(jobs, arguments.workers)
    with ProcessPoolExecutor(arguments.workers) as pool:
        for row in pool.map(train_one, *zip(*jobs, strict=True)):
            rows.append(row)
            arguments.out.write_text(json.dumps({**result, "rows": rows}, indent=1))
    arguments.table.write_text(table(rows))
    print(table(rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--artifacts", type=Path, default=Path("studies/artifacts"))
    parser.add_argument("--teacher", default="auto", help="a model file; auto trains one")
    parser.add_argument("--teacher-outputs", choices=("live", "views", "maps"), default="maps")
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=40, help="supervised: the budget")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def epoch_seconds(base: TrialConfig, recipe: Recipe, run: ExecutionConfig) -> float:
    """Mean training seconds of an epoch over all phases, without evaluation and start."""
    if recipe.quantized:
        recipe = recipe.replace(start_epochs=1)
    trial = Trial(base.replace(recipe=recipe, num_epochs=2), run)
    trial.stopwatch.start()
    for _ in trial.config.recipe.train(trial.task):
        pass
    return trial.stopwatch.seconds / 2


def affordable(
    config: TrialConfig, recipe: Recipe, seconds: dict[str, float], name: str, budget: float
) -> TrialConfig:
    """The configuration whose training, start included, takes `budget` seconds."""
    num_plain = round(budget / seconds["supervised"])
    if recipe.only_calibrates:
        return config.replace(recipe=recipe.replace(start_epochs=num_plain), num_epochs=1)
    if not recipe.quantized:
        return config.replace(recipe=recipe, num_epochs=max(1, round(budget / seconds[name])))
    return config.replace(
        recipe=recipe.replace(start_epochs=round(START_SHARE * num_plain)),
        num_epochs=max(1, round((1 - START_SHARE) * budget / seconds[name])),
    )


def warm_starts(jobs: list[tuple[str, TrialConfig, ExecutionConfig]], workers: int) -> None:
    """Trains the shared full-precision students first, so that no worker waits for another."""
    first = {
        (config.seed, quantized.start_epochs): (config, run)
        for name, config, run in jobs
        if (quantized := config.recipe.quantized)
    }
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(make_start, *zip(*first.values(), strict=True)))


def make_start(config: TrialConfig, run: ExecutionConfig) -> None:
    assert config.start
    train_or_find(config.start, run)


def train_one(name: str, config: TrialConfig, run: ExecutionConfig) -> dict[str, object]:
    metrics = list(Trial(config, run))[-1]
    row = {"name": name, "seed": config.seed, **metrics.model_dump(mode="json")}
    print(f"{name} seed {config.seed}: {metrics}", flush=True)
    return row


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| recipe | mIoU (mean ± s.d.) | bytes | epochs | device seconds, start included |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(str(row["name"]) for row in rows):
        own = [row for row in rows if row["name"] == name]
        mious = [100 * float(str(row["miou"])) for row in own]
        spread = statistics.stdev(mious) if len(mious) > 1 else 0.0
        seconds = statistics.mean(
            float(str(row["device_seconds"])) + float(str(row["start_seconds"])) for row in own
        )
        lines.append(
            f"| {name} | {statistics.mean(mious):.2f} ± {spread:.2f} | {own[0]['size_bytes']:,} "
            f"| {own[0]['epoch']} | {seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
