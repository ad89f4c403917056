"""How much of a GPU a training takes, from two real steps of it."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import nn

from trainables.config import RunConfig, TrialConfig
from trainables.frozen import Frozen
from trainables.recipes import Batch, QatDistill, train
from trainables.trial import Trial, give_memory_back

STEPS = 2


class Probe(Trial):
    """The first steps of a trial, from random weights and in the phase that takes most memory."""

    def __init__(self, config: TrialConfig, run: RunConfig) -> None:
        recipe = config.recipe
        if isinstance(recipe, QatDistill) and recipe.co_study:
            recipe = recipe.replace(self_study=0, co_study=1)
        super().__init__(config.replace(recipe=recipe, num_epochs=1), run)
        self.num_steps = STEPS

    def batches(self, epoch: int) -> Iterator[Batch]:
        return islice(super().batches(epoch), STEPS)

    def starting_student(self, recipe: Frozen, num_epochs: int | None) -> nn.Module:
        return self.new_student()

    def peak_bytes(self) -> int:
        """GPU memory that PyTorch held at most, resident data included; 0 on a CPU.

        Raises:
            torch.OutOfMemoryError: it takes more than there is.
        """
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        next(train(self.config.recipe, self))
        return torch.cuda.max_memory_reserved(self.device) if self.device.type == "cuda" else 0


def gpu_bytes(run: RunConfig, configs: Sequence[TrialConfig]) -> tuple[int, int]:
    """The most that any of `configs` takes of the GPU, and what the GPU has."""
    peaks = []
    total = torch.cuda.get_device_properties(0).total_memory if run.device == "cuda" else 0
    for config in configs:
        try:
            peaks.append(Probe(config, run).peak_bytes())
        except torch.OutOfMemoryError:
            peaks.append(total)  # the trial itself will halve its batch
        give_memory_back()
    return max(peaks), total
