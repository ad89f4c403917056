"""The task of a recipe: the batches, the networks and the length of a training."""

from collections.abc import Callable, Iterator
from itertools import islice, repeat

import torch
from torch import nn

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import Artifact
from trainables.core.freed_memory import keep_freed_memory
from trainables.data.arrow_table import Tensors
from trainables.data.augmentation import Transform
from trainables.data.loader import Loader, shuffled
from trainables.data.packed import images_of, open_pack
from trainables.models.base import to_device
from trainables.models.model_file import NETWORK_FILE, read_model
from trainables.recipes.base import Batch, MeanLosses, Stateful, TeacherOutputSource
from trainables.teachers.output_cache import TeacherOutputs, fixed_views
from trainables.teachers.outputs import CachedTeacher, LiveTeacher
from trainables.training.checkpoints import State
from trainables.training.unlabelled import UnlabelledBatches, open_outputs
from trainables.training.weights import initialize

Pretrain = Callable[[TrialConfig], Artifact]
"""Gives the artifact of a full-precision training, which it runs if necessary."""


class TrialTask:
    """The `Task` of one trial.

    `on_step_end` is called between two optimizer steps. `pretrain` is needed by recipes that start
    from a pretrained student.
    """

    def __init__(
        self,
        config: TrialConfig,
        run: ExecutionConfig,
        pretrain: Pretrain | None = None,
        on_step_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.config, self.run = config, run
        self.pretrain, self.on_step_end = pretrain, on_step_end
        self.data = open_pack(run.data)
        self.device = torch.device(run.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.train = Loader(self.data.train, self.device, run.gpu_share)
        self.val = Loader(self.data.val, self.device, run.gpu_share)
        self.transform = Transform(config.augmentation)
        self.outputs: TeacherOutputs | None = None
        self.unlabelled: UnlabelledBatches | None = None
        if config.recipe.learns_from_teacher and run.teacher_outputs:
            if terms := config.terms_of_live_teacher:
                raise ValueError(
                    f"the teacher must be live for the distillation term {terms[0]}, but its "
                    f"outputs are read from {run.teacher_outputs}"
                )
            self.outputs = open_outputs(run.teacher_outputs, run.data, config, run)
            self.kept_outputs = Loader(self.outputs.table, self.device, run.gpu_share)
        if config.recipe.learns_from_teacher and run.unlabelled:
            batch_size = min(config.batch_size, len(self.data.train))
            self.unlabelled = UnlabelledBatches(config, run, batch_size, self.device)
        self.num_steps = config.num_epochs * max(1, len(self.data.train) // config.batch_size)
        self.label_loss = config.label_loss.build(self.data.label_counts, self.device)
        self.ema_decay = config.ema_decay
        self.seed, self.accumulation_steps = config.seed, 1
        self.start_seconds = 0.0
        self._reset()

    def _reset(self) -> None:
        """Resets the training to its beginning."""
        self.epoch, self.num_batches, self.losses = 1, 0, MeanLosses()
        self.stateful: dict[str, Stateful] | None = None
        """The stateful parts of the recipe; None until the recipe has begun its epochs."""
        self.restored: State | None = None
        """The state that the recipe's parts still have to load."""

    @property
    def num_epochs_done(self) -> float:
        """Epochs trained so far; the current one counts in part."""
        return self.epoch - 1 + min(1.0, self.num_batches / self._batches_per_epoch)

    @property
    def _batches_per_epoch(self) -> int:
        return self.accumulation_steps * max(1, len(self.train) // self.config.batch_size)

    def halve_batches(self) -> None:
        """Restarts the training with two half batches for each optimizer step."""
        self._reset()
        self.accumulation_steps = 2

    def state_dict(self) -> State | None:
        """The state for a checkpoint; None before the first epoch has begun."""
        if self.stateful is None:
            return None
        return {
            "parts": self.accumulation_steps,
            "start_seconds": self.start_seconds,
            "losses": self.losses.state_dict(),
            "done": self.num_batches,
            "recipe": {name: part.state_dict() for name, part in self.stateful.items()},
        }

    def load_state_dict(self, state: State, epoch: int) -> None:
        """Continues in `epoch`; the recipe's parts are restored when it begins its epochs."""
        self.accumulation_steps, self.start_seconds = state["parts"], state["start_seconds"]
        self.epoch, self.num_batches = epoch, state["done"]
        self.losses.load_state_dict(state["losses"])
        self.restored = state

    def epochs(self, **stateful: Stateful) -> Iterator[tuple[Iterator[Batch], MeanLosses]]:
        if self.restored is not None:
            for name, part in stateful.items():
                if kept := self.restored["recipe"].get(name, {}):
                    part.load_state_dict(kept)
            self.restored = None
        self.stateful = stateful
        for epoch in range(self.epoch, self.config.num_epochs + 1):
            self.epoch = epoch
            yield self._steps(), self.losses
            self.num_batches, self.losses = 0, MeanLosses()

    def _steps(self) -> Iterator[Batch]:
        """The remaining batches of the current epoch."""
        for batch in self.training_batches(self.epoch, self.num_batches):
            yield batch
            self.num_batches += 1
            if self.num_batches % self.accumulation_steps == 0:  # a step was taken
                self.on_step_end()

    def training_batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The same as `batches`, with unlabelled images in steps that use the teacher."""
        batches = self.batches(epoch, first)
        if self.unlabelled is None:
            yield from batches
            return
        before = (epoch - 1) * self._batches_per_epoch
        numbers = range(before + first, before + self._batches_per_epoch)
        taught_from = self.accumulation_steps * self.config.recipe.taught_from(self.num_steps)
        num_untaught = len(range(numbers.start, min(taught_from, numbers.stop)))
        yield from islice(batches, num_untaught)
        unlabelled = self.unlabelled.batches(numbers[num_untaught:], self.accumulation_steps)
        for batch, more in zip(batches, unlabelled, strict=True):
            yield batch.join(more)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of labelled images of one epoch from the `first` on."""
        config, count = self.config, len(self.train)
        rows = shuffled(count, config.batch_size, config.seed, epoch)
        if self.accumulation_steps > 1:
            rows = [half for batch in rows for half in halves(batch)]
        rows = rows[first:]
        views = config.augmentation.views(count, config.seed, epoch)
        cached: Iterator[Tensors] = repeat({})
        if self.outputs is not None:
            cached = self.kept_outputs.batches(self.outputs.rows(batch, epoch) for batch in rows)
            if self.outputs.form == "views":
                views = fixed_views(config.augmentation, count, self.outputs.view(epoch))
        for batch, raw, kept_outputs in zip(rows, self.train.batches(rows), cached, strict=False):
            seen = views.select(torch.tensor(batch), self.device)
            images = self.transform.images(images_of(raw), seen)
            labels = self.transform.labels(raw["mask"], seen)
            yield Batch(
                images.contiguous(memory_format=torch.channels_last), labels, seen, kept_outputs
            )

    def new_student(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            student = self.config.student.build(self.data.num_classes)
        initialize(student, self.config.student, self.run)
        return to_device(student, self.device).train()

    def pretrained_student(self) -> nn.Module:
        assert self.pretrain is not None, "a recipe with a pretrained student needs `pretrain`"
        assert self.config.start, "a quantized student has a start"
        start = self.pretrain(self.config.start)
        self.start_seconds = start.seconds
        return to_device(read_model(start.path / NETWORK_FILE), self.device).train()

    def teacher(self) -> TeacherOutputSource:
        if self.outputs is None:
            return LiveTeacher(to_device(read_model(self.run.teacher_file), self.device))
        return CachedTeacher(self.transform if self.outputs.form == "maps" else None)


def halves(batch: list[int]) -> tuple[list[int], list[int]]:
    return batch[: len(batch) // 2], batch[len(batch) // 2 :]
