"""Measures how many trials at once train the most images a second on one device.

Small students leave a GPU idle between their kernels, large ones wait for one another's: only a
measurement tells how many of them should share it (docs/benchmarks.md).
"""

import json
import math
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, count, islice
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore, present
from trainables.core.files import replace_file
from trainables.core.progress import announce
from trainables.recipes.base import Batch
from trainables.training.memory_probe import ProbeTask, measure_gpu_bytes, num_by_memory

COUNTS = (1, 2, 4, 8)
"""Numbers of trials at once that are tried."""
MEASURED_S = 2.0
"""Seconds of training for each number of trials."""
READY_S = 300.0
"""Seconds after which processes no longer wait for others, which import PyTorch and compile."""
MANY_STEPS = 1_000_000
"""Steps of a training, for its schedules: more than there will be."""
FORMAT = 1
KIND, FILE = "sharing", "rates.json"
"""Of the artifact that keeps the rates of a student on a card, and of the file in it."""
together: Barrier
"""In a process that is measured: what all of them wait at before each round."""


@dataclass(frozen=True)
class CardMeasure:
    """Of a GPU: peak and free memory in bytes, and the trials at once that are the fastest.

    `gain` is the images a second of those trials together, against one alone.
    """

    peak_bytes: int
    free_bytes: int
    num_trials: int
    gain: float = 1.0


def measure_card(
    run: ExecutionConfig,
    largest: Sequence[TrialConfig],
    timed: Sequence[TrialConfig],
    most: int,
    data_share: float,
) -> CardMeasure:
    """How many trials at once share the GPU of this process, at most so many.

    Args:
        largest: the trials that take most memory: all at once must fit.
        timed: those whose images a second are measured, the smallest and the largest.
        data_share: of the GPU's memory, for data.

    Where the rates cannot be measured, as many as fit.
    """
    peak, free = measure_gpu_bytes(run, largest)
    fitting = max(1, min(most, num_by_memory(peak, free, data_share)))
    counts = [number for number in COUNTS if number <= fitting]
    if len(counts) == 1:
        return CardMeasure(peak, free, fitting)
    announce(f"measuring how many of at most {fitting} trials at once train fastest on a GPU")
    try:
        rates = [find_rates(run, config, counts) for config in timed]
    except Exception as error:  # whatever processes die of: a search goes on by memory alone
        announce(f"the trials at once are chosen by memory alone: {type(error).__name__}: {error}")
        return CardMeasure(peak, free, fitting)
    best = fastest(rates)
    return CardMeasure(peak, free, best, mean_gain(rates, best))


def fastest(rates: Sequence[Mapping[int, float]]) -> int:
    """The trials at once with the largest mean gain over all students; the fewer where equal."""
    return max(sorted(rates[0]), key=lambda number: mean_gain(rates, number))


def mean_gain(rates: Sequence[Mapping[int, float]], number: int) -> float:
    """The geometric mean of the images a second of so many trials, against one alone."""
    return math.prod(each[number] / each[1] for each in rates) ** (1 / len(rates))


def find_rates(
    run: ExecutionConfig, config: TrialConfig, counts: Sequence[int]
) -> dict[int, float]:
    """The rates of `measure_rates`, which are measured once for each card and kept."""
    config = config.replace(recipe=config.recipe.without_teacher())
    key = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "data": run.data.name,
        "card": torch.cuda.get_device_name() if run.device == "cuda" else run.device,
        "counts": list(counts),
        "torch": torch.__version__,
    }

    def build(folder: Path) -> None:
        replace_file(folder / FILE, json.dumps(measure_rates(run, config, counts)))

    kept = ArtifactStore(run.artifacts).get(KIND, key, build).path / FILE
    found: dict[str, float] = json.loads(present(kept).read_text())
    return {int(number): rate for number, rate in found.items()}


def measure_rates(
    run: ExecutionConfig, config: TrialConfig, counts: Sequence[int]
) -> dict[int, float]:
    """Images a second of so many trials at once, all together, each in a process of its own.

    Raises:
        Exception: what a process died of.
    """
    context, most = multiprocessing.get_context("spawn"), max(counts)
    barrier = context.Barrier(most)
    run = run.replace(gpu_share=1 / most, num_threads=1)
    with ProcessPoolExecutor(most, context, set_barrier, (barrier,)) as pool:
        given = [(run, config, tuple(counts), index) for index in range(most)]
        each = list(pool.map(train_in_rounds, *zip(*given, strict=True)))
    return dict(zip(counts, map(sum, zip(*each, strict=True)), strict=True))


def set_barrier(barrier: Barrier) -> None:
    """Keeps that of the processes that are measured together."""
    global together
    together = barrier


def train_in_rounds(
    run: ExecutionConfig, config: TrialConfig, counts: Sequence[int], index: int
) -> list[float]:
    """The images a second of one trial in each round; it rests where fewer trials run."""
    try:
        torch.set_num_threads(run.num_threads)
        task = RoundsTask(config, run, counts, index)
        next(config.recipe.quickly_calibrated().train(task))
        return task.rates
    except BaseException:
        together.abort()  # the others do not wait
        raise


class RoundsTask(ProbeTask):
    """A task whose training takes part in rounds that begin together in all processes."""

    def __init__(
        self, config: TrialConfig, run: ExecutionConfig, counts: Sequence[int], index: int
    ) -> None:
        super().__init__(config, run)
        self.num_first, self.num_steps = self.num_steps, MANY_STEPS
        self.counts, self.index, self.batch_size = counts, index, config.batch_size
        self.rates: list[float] = []

    def training_batches(self) -> Iterator[Batch]:
        batches = chain.from_iterable(self.trial.training_batches(epoch) for epoch in count(1))
        yield from islice(batches, self.num_first)
        for number in self.counts:
            self._synchronize()
            together.wait(READY_S)
            begin, num_images = time.perf_counter(), 0
            while self.index < number and time.perf_counter() < begin + MEASURED_S:
                yield next(batches)
                num_images += self.batch_size
            self._synchronize()
            self.rates.append(num_images / (time.perf_counter() - begin))

    def _synchronize(self) -> None:
        if self.trial.device.type == "cuda":
            torch.cuda.synchronize()
