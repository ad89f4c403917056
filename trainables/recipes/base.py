"""The interfaces between recipes and trainings."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from trainables.data.arrow_table import Tensors
from trainables.data.augmentation import Views, join_views
from trainables.losses.label_loss import LabelLoss
from trainables.models.base import Outputs


class Batch(NamedTuple):
    """Normalised images (B,3,H,W), labels (B,H,W), their views, and cached teacher outputs.

    Labels are int64: class indices, IGNORE, or UNLABELLED.
    """

    images: Tensor
    labels: Tensor
    views: Views
    cached: Tensors

    def join(self, other: "Batch") -> "Batch":
        """The images of both batches in one."""
        return Batch(
            torch.cat([self.images, other.images]),
            torch.cat([self.labels, other.labels]),
            join_views([self.views, other.views]),
            {name: torch.cat([kept, other.cached[name]]) for name, kept in self.cached.items()},
        )


class TeacherOutputSource(Protocol):
    """Gives a recipe the outputs of the trained teacher, in evaluation mode."""

    @property
    def network(self) -> nn.Module | None:
        """What co-study trains, without gradients until then; None where its outputs are kept."""
        ...

    def __call__(self, batch: Batch) -> Outputs:
        """The teacher's outputs for a batch, logits at the images' size."""
        ...


class Stateful(Protocol):
    """A part of a recipe whose state changes in training and is kept in checkpoints."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Task(Protocol):
    """Data, networks and length of one training, for any recipe."""

    num_steps: int
    """Optimizer steps in all epochs together."""
    seed: int
    """The seed of all random draws."""
    accumulation_steps: int
    """Batches for one optimizer step: more than 1 where a whole one does not fit into memory."""
    label_loss: LabelLoss
    """The loss on labels."""
    ema_decay: float
    """Of the moving average of the student's weights; 0 for none."""

    def epochs(self, **stateful: Stateful) -> Iterator[tuple[Iterator[Batch], "MeanLosses"]]:
        """For each epoch its batches, and the means to which the losses of its steps are added.

        Where there are unlabelled images, a batch of a step from `Recipe.taught_from` on holds
        equally many of them after the labelled ones.
        It restores `stateful` from a checkpoint, if there is one, and starts at its position.
        """
        ...

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of labelled images of one epoch, counted from 1, outside training."""
        ...

    def new_student(self) -> nn.Module:
        """The student with seeded random weights, in training mode."""
        ...

    def pretrained_student(self) -> nn.Module:
        """The pretrained full-precision student, in training mode."""
        ...

    def teacher(self) -> TeacherOutputSource:
        """The trained teacher."""
        ...

    def on_step_end(self) -> None:
        """Reports progress between two steps of training or of a long calibration.

        Raises:
            Interrupted: the training is asked to stop.
        """
        ...


class Epoch(NamedTuple):
    """The student after an epoch, and the epoch's mean losses by name."""

    student: nn.Module
    losses: dict[str, float]


class MeanLosses:
    """Averages named losses over an epoch without waiting for the device at each step."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + value.detach()
            self.counts[name] = self.counts.get(name, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])

    def mean(self) -> dict[str, float]:
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}


def total(terms: dict[str, Tensor]) -> Tensor:
    """The sum of named losses."""
    return torch.stack(list(terms.values())).sum()
