"""Disk space of models and checkpoints, by number of trials, with and without clean-up.

    python -m benchmarks.reliability.disk

Files have the sizes of real ones (of a checkpoint: as measured on one training), but no content.
Which trials are on the front follows from their sizes and a mIoU that grows with size, with noise.
"""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.timing import describe_machine, markdown
from search.algorithms.candidates import sample_config
from search.core.objectives import MIOU_AND_SIZE
from search.core.record import Record
from search.storage.cleanup import ArtifactCleanup
from search.storage.layout import checkpoint_folder, model_folder
from search.storage.trials import trial_name
from spaces import load_space
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.metrics import Metrics
from trainables.data.packed import pack_dataset
from trainables.data.registry import ShapesSource
from trainables.data.shapes import CLASS_NAMES
from trainables.recipes.configs import Supervised
from trainables.training.checkpoints import NUM_KEPT
from trainables.training.cost import count_params, predict_size_bytes
from trainables.training.trial import Trial

COUNTS = (10, 100, 1000, 10000)
PARALLEL = 4
CLASSES = len(CLASS_NAMES)


def main() -> None:
    bytes_per_param = measure()
    print(f"Measured on: {describe_machine(torch.device('cpu'))}. A checkpoint takes ")
    print(f"{bytes_per_param:.1f} bytes for each weight; {PARALLEL} trials run at once.\n")
    rows: list[list[object]] = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append([count, *map(megabytes, simulate(count, bytes_per_param, Path(folder)))])
    print(markdown(["trials", "front", "most at once, MB", "at the end", "were all kept"], rows))


def measure() -> float:
    """Bytes of a checkpoint for each weight of its student."""
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore(Path(folder))
        data = pack_dataset(ShapesSource(32, num_train=16, num_val=8), store)
        run = ExecutionConfig(data=data.path, artifacts=store.root, checkpoint_every_s=0)
        config = TrialConfig(recipe=Supervised(), num_epochs=2)
        next(iter(Trial(config, run, Path(folder) / "kept")))
        size = next((Path(folder) / "kept").iterdir()).stat().st_size
    return size / count_params(config.student, CLASSES)


def simulate(count: int, bytes_per_param: float, folder: Path) -> Iterator[float]:
    """Members of the front, then bytes: the most at once, at the end, and all that was written."""
    chance = random.Random(count)
    cleanup = ArtifactCleanup(folder, MIOU_AND_SIZE, [])
    running: list[Record] = []
    most = written = 0.0
    for number in range(count):
        config, _ = sample_config(load_space("qkd").space, {}, seed=number)
        size = predict_size_bytes(config, CLASSES)
        weights = count_params(config.student, CLASSES)
        name = trial_name(number)
        for place in range(NUM_KEPT):
            write(checkpoint_folder(folder, name) / f"{place}.ckpt", int(bytes_per_param * weights))
        write(model_folder(folder, name) / "model.safetensors", size)
        written += size + NUM_KEPT * int(bytes_per_param * weights)
        miou = 0.9 - 30 / size**0.5 + chance.gauss(0, 0.02)
        metrics = Metrics(
            epoch=1,
            time_ms=0,
            losses={},
            miou=min(1.0, max(0.0, miou)),
            pixel_accuracy=0.0,
            size_bytes=size,
            predicted_size_bytes=size,
            num_params=weights,
            macs=0,
            device_seconds=1.0,
            start_seconds=0.0,
        )
        running.append(Record(name, "COMPLETE", "", config, metrics))
        if len(running) == PARALLEL:
            most = max(most, used(folder))
            cleanup.ended(running.pop(chance.randrange(PARALLEL)))
    for record in running:
        cleanup.ended(record)
    yield from (len(cleanup.front), most, used(folder), written)


def write(path: Path, size: int) -> None:
    """A file of a length, which takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def megabytes(value: float) -> str:
    """Bytes as MB; small numbers are counts."""
    return f"{value / 1e6:,.1f}" if value > 1e4 else f"{value:.0f}"


if __name__ == "__main__":
    main()
