"""Batches of unlabelled images, which a student sees beside labelled ones.

Shape suffixes: B batch, H height, W width.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import torch

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.config_base import digest
from trainables.core.files import hash_file_once
from trainables.data.arrow_table import Tensors
from trainables.data.augmentation import Transform, Views, join_views
from trainables.data.labels import IGNORE, UNLABELLED
from trainables.data.loader import Loader, shuffled
from trainables.data.packed import images_of
from trainables.data.unlabelled import open_unlabelled, padding_masks
from trainables.recipes.base import Batch
from trainables.teachers.output_cache import TeacherOutputs, fixed_views

STREAMED = 0.0
"""Share of the GPU's memory for these images: `NUM_TABLES` divides it among the labelled data."""
NUM_ROUNDS_KEPT = 2
"""Rounds whose order is kept: a batch may lie in two, if there are as many images as it holds."""


class Round(NamedTuple):
    """One pass over all unlabelled images, counted from 1: their order and their views."""

    number: int
    order: list[int]
    views: Views


def open_outputs(
    folder: Path, images: Path, config: TrialConfig, run: ExecutionConfig
) -> TeacherOutputs:
    """The kept outputs of the teacher of `run` for packed images."""
    teacher = hash_file_once(run.teacher_file)
    return TeacherOutputs(folder, images.name, teacher, config.augmentation)


class UnlabelledBatches:
    """Unlabelled images in rounds, each in an order and in views of its own.

    What a batch holds is a function of the seed and of the number of the optimizer step alone.
    """

    def __init__(
        self, config: TrialConfig, run: ExecutionConfig, batch_size: int, device: torch.device
    ) -> None:
        """`batch_size` is the number of images for each optimizer step."""
        assert run.unlabelled is not None, "there are unlabelled images"
        self.augmentation, self.batch_size, self.device = config.augmentation, batch_size, device
        self.seed = int(digest(["unlabelled", config.seed])[:8], 16)
        self.transform = Transform(config.augmentation)
        self.images = Loader(open_unlabelled(run.unlabelled).images, device, STREAMED)
        self.outputs: TeacherOutputs | None = None
        if run.teacher_outputs:
            assert run.unlabelled_outputs, "outputs are kept for all images or for none"
            self.outputs = open_outputs(run.unlabelled_outputs, run.unlabelled, config, run)
            self.kept_outputs = Loader(self.outputs.table, device, STREAMED)
        self._round = lru_cache(NUM_ROUNDS_KEPT)(self._make_round)

    def batches(self, numbers: Sequence[int], accumulation_steps: int) -> Iterator[Batch]:
        """The batches with these numbers; a step has `accumulation_steps` of them."""
        draws = [self._draw(number, accumulation_steps) for number in numbers]
        rows = [[image for _, images in draw for image in images] for draw in draws]
        cached: Iterator[Tensors] = repeat({})
        if (outputs := self.outputs) is not None:
            cached = self.kept_outputs.batches(
                [row for current, images in draw for row in outputs.rows(images, current.number)]
                for draw in draws
            )
        for draw, raw, kept_outputs in zip(draws, self.images.batches(rows), cached, strict=False):
            views = join_views(
                current.views.select(torch.tensor(images), self.device) for current, images in draw
            )
            images = self.transform.images(images_of(raw), views)
            masks_BHW = padding_masks(raw["size"], *images.shape[-2:])
            labels_BHW = self.transform.labels(masks_BHW, views)
            yield Batch(
                images.contiguous(memory_format=torch.channels_last),
                labels_BHW.masked_fill(labels_BHW != IGNORE, UNLABELLED),
                views,
                kept_outputs,
            )

    def _draw(self, number: int, accumulation_steps: int) -> list[tuple[Round, list[int]]]:
        """The images of a batch, by the rounds that they are drawn in."""
        step, part = divmod(number, accumulation_steps)
        start, stop = (
            step * self.batch_size + self.batch_size * end // accumulation_steps
            for end in (part, part + 1)
        )
        drawn = []
        while start < stop:
            index, place = divmod(start, len(self.images))
            current = self._round(index + 1)
            images = current.order[place : place + stop - start]
            drawn.append((current, images))
            start += len(images)
        return drawn

    def _make_round(self, number: int) -> Round:
        count = len(self.images)
        (order,) = shuffled(count, count, self.seed, number)
        views = self.augmentation.views(count, self.seed, number)
        if self.outputs is not None and self.outputs.form == "views":
            views = fixed_views(self.augmentation, count, self.outputs.view(number))
        return Round(number, order, views)
