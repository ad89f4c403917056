"""Measures the seconds of an optimizer step by a few of them."""

import json
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore, present
from trainables.core.files import replace_file
from trainables.recipes.base import Batch
from trainables.training.memory_probe import ProbeTask
from trainables.training.trial import release_memory

NUM_STEPS = 4
FORMAT = 1
"""Version of kept seconds: to be raised when a step comes to take another time."""
KIND, FILE = "speed", "step.json"
"""Of the artifact that keeps the seconds of a step, and of the file in it."""


def find_step_seconds(
    run: ExecutionConfig, config: TrialConfig, num_threads: int, hardware: str
) -> float | None:
    """What `measure_step_seconds` found before on the same hardware, where that has been kept."""
    key = speed_key(run, config, num_threads, hardware)
    if (found := ArtifactStore(run.artifacts).find(KIND, key)) is None:
        return None
    seconds: float = json.loads(present(found.path / FILE).read_text())
    return seconds


def keep_step_seconds(
    run: ExecutionConfig, config: TrialConfig, num_threads: int, hardware: str, seconds: float
) -> None:
    """Keeps what `measure_step_seconds` has found."""
    key = speed_key(run, config, num_threads, hardware)
    ArtifactStore(run.artifacts).get(
        KIND, key, lambda folder: replace_file(folder / FILE, json.dumps(seconds))
    )


def speed_key(
    run: ExecutionConfig, config: TrialConfig, num_threads: int, hardware: str
) -> dict[str, object]:
    """All that determines the seconds of a step, but for what else a machine does meanwhile."""
    return {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "data": run.data.name,
        "device": run.device,
        "threads": num_threads,
        "hardware": hardware,
        "torch": torch.__version__,
    }


class TimedTask(ProbeTask):
    """A task of a few steps that keeps the times between them."""

    def __init__(self, config: TrialConfig, run: ExecutionConfig) -> None:
        super().__init__(config, run, NUM_STEPS)
        self.times: list[float] = []

    def training_batches(self) -> Iterator[Batch]:
        for batch in super().training_batches():
            self.times.append(self._now())
            yield batch
        self.times.append(self._now())

    def _now(self) -> float:
        self.synchronize()
        return time.perf_counter()

    @property
    def step_seconds(self) -> float:
        """The shortest time of a step: others had to warm up, or waited for other processes."""
        return min(after - before for before, after in pairwise(self.times))


def measure_step_seconds(
    run: ExecutionConfig, configs: Sequence[TrialConfig], num_threads: Sequence[int]
) -> list[float]:
    """The seconds of an optimizer step of each configuration, with so many threads.

    The configurations need no teacher; quantized ones are measured from random weights. Of those
    that are only calibrated it is the seconds of the full-precision student for a batch.
    """
    found = []
    for config, threads in zip(configs, num_threads, strict=True):
        torch.set_num_threads(threads)
        measure = batch_seconds if config.recipe.only_calibrates else step_seconds
        found.append(measure(config, run))
        release_memory()
    return found


@torch.no_grad()
def batch_seconds(config: TrialConfig, run: ExecutionConfig) -> float:
    """The seconds in which the full-precision student predicts a batch."""
    task = TimedTask(config, run)
    student = task.new_student().eval()
    for batch in task.training_batches():
        student(batch.images)
    return task.step_seconds


def step_seconds(config: TrialConfig, run: ExecutionConfig) -> float:
    """The seconds of a step, by one with half of the images where a whole one needs more memory."""
    task = TimedTask(config, run)
    try:
        next(config.recipe.quickly_calibrated().train(task))
        return task.step_seconds
    except torch.OutOfMemoryError:
        if config.batch_size < 4:
            raise
    del task  # its memory is freed outside the handler, whose exception refers to it
    release_memory()
    return 2 * step_seconds(config.replace(batch_size=config.batch_size // 2), run)
