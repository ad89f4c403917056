"""Measures the GPU memory of a training by a few of its steps."""

from collections.abc import Iterator, Sequence
from itertools import chain, count, islice

import torch
from torch import nn

from trainables.config import ExecutionConfig, TrialConfig
from trainables.data.augmentation import normalize
from trainables.data.packed import images_of
from trainables.recipes.base import Batch, MeanLosses, Stateful, TeacherOutputSource
from trainables.recipes.captured import NUM_EAGER
from trainables.training.evaluation import BATCH_SIZE, prediction
from trainables.training.task import TrialTask
from trainables.training.trial import CONTEXT_BYTES, release_memory

STEPS = 2
MEMORY_SHARE = 0.9
"""Share of a GPU's memory for all trials on it together."""


class ProbeTask:
    """The `Task` of the first steps of a trial, quantized from random weights.

    On a GPU there are as many more as are taken before a graph is recorded, whose memory stays.
    """

    accumulation_steps = 1

    def __init__(self, config: TrialConfig, run: ExecutionConfig, num_steps: int = STEPS) -> None:
        self.trial, self.seed = TrialTask(config, run), config.seed
        self.num_steps = num_steps + (NUM_EAGER if run.device == "cuda" else 0)
        self.label_loss, self.ema_decay = self.trial.label_loss, config.ema_decay

    def epochs(self, **stateful: Stateful) -> Iterator[tuple[Iterator[Batch], MeanLosses]]:
        yield self.training_batches(), MeanLosses()

    def training_batches(self) -> Iterator[Batch]:
        epochs = (self.trial.training_batches(epoch) for epoch in count(1))
        return islice(chain.from_iterable(epochs), self.num_steps)

    def batches(self, epoch: int) -> Iterator[Batch]:
        return islice(self.trial.batches(epoch), self.num_steps)

    def new_student(self) -> nn.Module:
        return self.trial.new_student()

    def pretrained_student(self) -> nn.Module:
        return self.new_student()

    def teacher(self) -> TeacherOutputSource:
        return self.trial.teacher()

    def on_step_end(self) -> None:
        """A probe is too short to report progress."""

    def synchronize(self) -> None:
        """Waits until the device has done what it was told."""
        if self.trial.device.type == "cuda":
            torch.cuda.synchronize()


def peak_bytes(config: TrialConfig, run: ExecutionConfig) -> int:
    """GPU memory that PyTorch held at most in the steps of `config` that take most of it.

    Resident data are included. 0 on a CPU.

    Raises:
        torch.OutOfMemoryError: it takes more than there is.
    """
    device = torch.device(run.device)
    torch.set_num_threads(run.num_threads)
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)  # the share is not known yet
        torch.cuda.reset_peak_memory_stats(device)
    config = config.replace(recipe=config.recipe.at_peak_memory())
    task = ProbeTask(config, run)
    training = config.recipe.train(task)  # kept, since its graph takes memory beside evaluations
    logits_of = prediction(next(training).student.eval(), task.trial.val)
    with torch.no_grad():
        for batch in islice(task.trial.val.in_order(BATCH_SIZE), task.num_steps):
            logits_of(normalize(images_of(batch)))
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0


def num_by_memory(peak: int, free: int, data_share: float) -> int:
    """The trials of a peak that fit on a GPU, of which a share of the free bytes is for data."""
    return int(MEMORY_SHARE * (1 - data_share) * free / (peak + CONTEXT_BYTES))


def measure_gpu_bytes(run: ExecutionConfig, configs: Sequence[TrialConfig]) -> tuple[int, int]:
    """The peak memory of `configs` and their pretrainings on the GPU, and the free memory."""
    free = torch.cuda.mem_get_info()[0] if run.device == "cuda" else 0
    peaks = []
    for config in configs:
        for stage in (config, config.start):
            if stage is None:
                continue
            try:
                peaks.append(peak_bytes(stage, run))
            except torch.OutOfMemoryError:
                peaks.append(free)  # the trial will halve its batch
            release_memory()
    return max(peaks), free
