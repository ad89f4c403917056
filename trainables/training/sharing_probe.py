"""Measures how many trials at once train the most images a second on one device.

Small students leave a GPU idle between their kernels, large ones wait for one another's: only a
measurement tells how many of them should share it (docs/benchmarks.md).
"""

import json
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError

import torch

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore, NotBuilt, only_found, present
from trainables.core.command_line import first_line
from trainables.core.files import replace_file
from trainables.core.progress import announce
from trainables.recipes.base import Batch
from trainables.training.memory_probe import ProbeTask, measure_gpu_bytes, num_by_memory
from trainables.training.mps import (
    MpsUnavailable,
    MultiProcessService,
    is_in_use,
    join_service,
    new_folder,
)

COUNTS = (1, 2, 4, 8)
"""Numbers of trials at once that are tried."""
MEASURED_S = 2.0
"""Seconds of training for each number of trials."""
MPS_GAIN = 1.05
"""How much faster trials must be with the Multi-Process Service, in which one's fault ends all."""
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

    `gain` is the images a second of those trials together, against one alone; None where that was
    not measured. `with_mps`: by means of the Multi-Process Service.
    """

    peak_bytes: int
    free_bytes: int
    num_trials: int
    gain: float | None = None
    with_mps: bool = False


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
        timed: those whose images a second are measured; those that train nothing are left out.
        data_share: of the GPU's memory, for data.

    Where no rates can be measured, as many as fit. Where so many trials do not run at once, as when
    another process fills the GPU, fewer are tried. The Multi-Process Service is tried where it can
    be started, and taken where it is faster by `MPS_GAIN`.
    """
    peak, free = measure_gpu_bytes(run, largest)
    fitting = max(1, min(most, num_by_memory(peak, free, data_share)))
    counts = [number for number in COUNTS if number <= fitting]
    trained = [config for config in timed if not config.recipe.only_calibrates]
    if len(counts) == 1 or not trained:
        return CardMeasure(peak, free, fitting)
    announce(f"measuring how many of at most {fitting} trials at once train fastest on a GPU")
    plain = mean_rates(run, trained, counts)
    shared = mean_rates_with_mps(run, trained, counts)
    with_mps = max(shared.values(), default=0) > MPS_GAIN * max(plain.values(), default=0)
    if not (rates := shared if with_mps else plain):
        return CardMeasure(peak, free, 1)
    best, alone = fastest(rates), (plain or shared)[1]
    return CardMeasure(peak, free, best, rates[best] / alone, with_mps)


def mean_rates(
    run: ExecutionConfig, configs: Sequence[TrialConfig], counts: Sequence[int]
) -> dict[int, float]:
    """`mean_rates_of` so many trials at once, or of fewer; empty where no two run at once."""
    counts, how = list(counts), " with the Multi-Process Service (MPS)" if run.mps else ""
    while len(counts) > 1:
        try:
            return mean_rates_of(run, configs, counts)
        except Exception as error:  # whatever a process died of: a search goes on with fewer
            reason = f"{type(error).__name__}: {first_line(error)}"
            announce(f"{counts.pop()} trials at once do not train on a GPU{how}: {reason}")
    return {}


def mean_rates_of(
    run: ExecutionConfig, configs: Sequence[TrialConfig], counts: Sequence[int]
) -> dict[int, float]:
    """The geometric mean over students of the images a second, by the number of trials at once."""
    rates = [find_rates(run, config, counts) for config in configs]
    return {n: math.prod(each[n] for each in rates) ** (1 / len(rates)) for n in counts}


def mean_rates_with_mps(
    run: ExecutionConfig, configs: Sequence[TrialConfig], counts: Sequence[int]
) -> dict[int, float]:
    """The same by means of the Multi-Process Service; empty where it cannot be started."""
    if is_in_use():
        announce("trials share GPUs by the Multi-Process Service (MPS) that runs on this machine")
        return {}
    folder = new_folder()
    with suppress(NotBuilt), only_found():
        return mean_rates_of(run.replace(mps=folder), configs, counts)
    try:
        service = MultiProcessService(folder)
    except MpsUnavailable as reason:
        announce(f"trials share GPUs without the Multi-Process Service (MPS): {reason}")
        return {}
    announce("the same with the Multi-Process Service (MPS)")
    try:
        return mean_rates(run.replace(mps=folder), configs, counts)
    finally:
        service.close()


def fastest(rates: Mapping[int, float]) -> int:
    """The number of trials with the largest rate; the fewest where equal."""
    return max(sorted(rates), key=rates.__getitem__)


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
        "cores": os.cpu_count(),
        "counts": list(counts),
        "torch": torch.__version__,
        **({"mps": True} if run.mps else {}),
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
    with ProcessPoolExecutor(most, context, begin_process, (barrier,)) as pool:
        trainings = [
            pool.submit(train_in_rounds, run, config, tuple(counts), index) for index in range(most)
        ]
        wait(trainings)
    errors = [error for training in trainings if (error := training.exception())]
    # Those that waited for a process that has died say nothing of why
    for error in sorted(errors, key=lambda each: isinstance(each, BrokenBarrierError)):
        raise error
    each = [training.result() for training in trainings]
    return dict(zip(counts, map(sum, zip(*each, strict=True)), strict=True))


def begin_process(barrier: Barrier) -> None:
    """Keeps the barrier of the processes that are measured together; none outlives its parent."""
    global together
    together = barrier
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Ends this process when the one that measures has ended, also where that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def train_in_rounds(
    run: ExecutionConfig, config: TrialConfig, counts: Sequence[int], index: int
) -> list[float]:
    """The images a second of one trial in each round; it rests where fewer trials run."""
    try:
        torch.set_num_threads(run.num_threads)
        if run.mps:
            join_service(run.mps)
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
        batches = super().training_batches()
        yield from islice(batches, self.num_first)
        for number in self.counts:
            self.synchronize()
            together.wait(READY_S)
            begin, num_images = time.perf_counter(), 0
            while self.index < number and time.perf_counter() < begin + MEASURED_S:
                yield next(batches)
                num_images += self.batch_size
            self.synchronize()
            self.rates.append(num_images / (time.perf_counter() - begin))
