"""A distilled student by the teacher's outputs, live, as views and as maps, at equal epochs.

    python -m benchmarks.teacher_outputs --data FOLDER --teacher FILE --table table.md

The table includes the supervised student. Device seconds are of training and evaluation; what
keeping the outputs took is given separately, since all trials of all studies share it.
"""

import argparse
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.compression import FULL_RATE, PAIR
from benchmarks.timing import describe_machine, markdown
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore, read_artifact
from trainables.core.metrics import Metrics
from trainables.data.packed import pack_dataset
from trainables.data.registry import open_source
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import Distill, Supervised
from trainables.teachers.output_cache import Form, cache_outputs
from trainables.training.defaults import FLIP_ONLY
from trainables.training.trial import Trial

FORMS: tuple[Form, ...] = ("views", "maps")


def main() -> None:
    arguments = parse()
    store = ArtifactStore(arguments.artifacts)
    data = pack_dataset(open_source(str(arguments.data), arguments.image_size, store.root), store)
    live = ExecutionConfig(data=data.path, artifacts=store.root, teacher=arguments.teacher)
    kept = {form: cache_outputs(live, form, FLIP_ONLY) for form in FORMS}
    runs = {"supervised": live, "live": live} | {
        form: live.replace(teacher_outputs=folder) for form, folder in kept.items()
    }
    jobs = [(name, seed) for seed in range(arguments.seeds) for name in runs]
    with ProcessPoolExecutor(arguments.workers) as pool:
        pending = {
            job: pool.submit(train_one, job[0], job[1], arguments.epochs, runs[job[0]])
            for job in jobs
        }
        finished = {job: future.result() for job, future in pending.items()}
    rows: list[list[object]] = []
    for name in runs:
        own = [finished[name, seed] for seed in range(arguments.seeds)]
        mious = [100 * metrics.miou for metrics in own]
        seconds = statistics.mean(metrics.device_seconds for metrics in own)
        built = kept.get(name)  # type: ignore[call-overload]
        size = sum(file.stat().st_size for file in built.iterdir()) if built else 0
        rows.append(
            [
                name,
                f"{statistics.mean(mious):.2f} ± {statistics.stdev(mious):.2f}",
                f"{seconds:.0f}",
                f"{statistics.mean(mious) / seconds:.3f}",
                f"{size / 1e6:.0f}" if built else "",
                f"{read_artifact(built).seconds:.0f}" if built else "",
            ]
        )
    heading = ["teacher outputs", "mIoU", "device s", "mIoU / device s", "MB kept", "s to keep"]
    text = (
        f"Measured on: {describe_machine(torch.device('cpu'))}, {arguments.workers} trials at "
        f"a time. {arguments.epochs} epochs, {arguments.seeds} seeds.\n\n" + markdown(heading, rows)
    )
    arguments.table.write_text(text)
    print(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True, help="a model file")
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--artifacts", type=Path, default=Path("studies/artifacts"))
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def train_one(name: str, seed: int, epochs: int, run: ExecutionConfig) -> Metrics:
    if name == "supervised":
        recipe: Supervised | Distill = Supervised(optimizer=FULL_RATE)
    else:
        recipe = Distill(optimizer=FULL_RATE, losses=PAIR)
    config = TrialConfig(
        student=UNetConfig(width=8),
        recipe=recipe,
        augmentation=FLIP_ONLY,
        num_epochs=epochs,
        seed=seed,
    )
    metrics = list(Trial(config, run))[-1]
    print(
        f"{name} seed {seed}: {100 * metrics.miou:.2f}, {metrics.device_seconds:.0f} s", flush=True
    )
    return metrics


if __name__ == "__main__":
    main()
