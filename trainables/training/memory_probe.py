"""How much of a GPU a training takes, from two real steps of it."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import nn

from trainables.config import ExecutionConfig, TrialConfig
from trainables.recipes.base import Batch
from trainables.training.trial import Trial, release_memory

STEPS = 2


class Probe(Trial):
    """The first steps of a trial, from random weights and in the phase that takes most memory."""

    def __init__(self, config: TrialConfig, run: ExecutionConfig) -> None:
        super().__init__(config.replace(recipe=config.recipe.at_peak_memory(), num_epochs=1), run)
        self.num_steps = STEPS
        if self.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)  # the share is what is to be found out

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        return islice(super().batches(epoch, first), STEPS)

    def pretrained_student(self) -> nn.Module:
        return self.new_student()

    def peak_bytes(self) -> int:
        """GPU memory that PyTorch held at most, resident data included; 0 on a CPU.

        Raises:
            torch.OutOfMemoryError: it takes more than there is.
        """
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        next(self.config.recipe.train(self))
        return torch.cuda.max_memory_reserved(self.device) if self.device.type == "cuda" else 0


def measure_gpu_bytes(run: ExecutionConfig, configs: Sequence[TrialConfig]) -> tuple[int, int]:
    """The most that any of `configs`, or a start of them, takes of the GPU, and what is free."""
    free = torch.cuda.mem_get_info()[0] if run.device == "cuda" else 0
    peaks = []
    for config in configs:
        for stage in (config, config.start):
            if stage is None:
                continue
            try:
                peaks.append(Probe(stage, run).peak_bytes())
            except torch.OutOfMemoryError:
                peaks.append(free)  # the trial itself will halve its batch
            release_memory()
    return max(peaks), free
