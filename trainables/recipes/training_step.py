"""One training step: the gradients of a batch's losses, and the updates that follow from them."""

from collections.abc import Callable

from torch import Tensor

from trainables.recipes.base import Batch
from trainables.recipes.captured import Captured
from trainables.recipes.optimization import OptimizerLoop

Gradients = Callable[[Batch], dict[str, Tensor]]
"""Adds the gradients of a batch's losses, and gives the losses by name."""


class TrainingStep:
    """Takes a step for each batch, whose losses and gradients a GPU replays as one graph.

    Updates, learning rates and moving averages stay outside the graph, since their numbers change
    from step to step; they are a few launches for all parameters together.
    """

    def __init__(self, gradients: Gradients, *loops: OptimizerLoop) -> None:
        """`gradients` calls `backward` of each of the `loops`."""

        def detached(batch: Batch) -> dict[str, Tensor]:
            return {name: loss.detach() for name, loss in gradients(batch).items()}

        self.gradients, self.loops = Captured(detached), loops

    def forget(self) -> None:
        """Frees the graph; needed after the student's operations have changed, as its bits do."""
        self.gradients.forget()

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The losses by name, detached; they are overwritten by the next step."""
        losses = self.gradients(batch)
        for loop in self.loops:
            loop.update()
        return losses
