"""What helps weights of few bits during quantization-aware training; all of it is optional."""

from itertools import islice

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from trainables.losses.dampening import dampening_loss, dampening_weight
from trainables.recipes.base import Task
from trainables.recipes.bit_descent import BitDescent
from trainables.recipes.configs import QuantizedTraining
from trainables.recipes.optimization import OptimizerLoop
from trainables.recipes.quantized_start import calibration_images
from trainables.recipes.training_step import TrainingStep


class FewBits:
    """Bit descent, dampening, and statistics of BatchNorm that are estimated at the end.

    Weights that change their grid points until the end leave BatchNorm with statistics of other
    weights (Nagel et al. 2022, arXiv 2203.11086).
    """

    def __init__(self, recipe: QuantizedTraining, loop: OptimizerLoop, task: Task) -> None:
        self.recipe, self.loop, self.task = recipe, loop, task
        self.dampening = torch.zeros((), device=next(loop.model.parameters()).device)
        self.descent: BitDescent | None = None
        if recipe.bit_descent > 1:
            images = calibration_images(task)
            self.descent = BitDescent(loop, recipe.bit_descent, task.num_steps, images)

    def before(self, step: TrainingStep) -> None:
        """Sets what changes from step to step, and lowers the bits where that is due."""
        if self.descent is not None and self.descent.is_due:
            step.forget()
            self.descent.descend()
        if self.recipe.dampening:
            place = self.loop.num_steps_taken, self.task.num_steps
            self.dampening.fill_(dampening_weight(self.recipe.dampening, *place))

    def losses(self) -> dict[str, Tensor]:
        """The terms of the loss, by name."""
        if not self.recipe.dampening:
            return {}
        return {"dampening": self.dampening * dampening_loss(self.loop.model)}

    @torch.no_grad()
    def after_epoch(self) -> None:
        """Estimates the statistics of BatchNorm if the training has ended."""
        if self.recipe.norm_batches and self.loop.num_steps_taken >= self.task.num_steps:
            batches = islice(self.task.batches(1), self.recipe.norm_batches)
            update_bn((batch.images for batch in batches), self.loop.shipped)

    def state_dict(self) -> dict[str, int]:
        """The state for a checkpoint."""
        return {} if self.descent is None else self.descent.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        if self.descent is not None:
            self.descent.load_state_dict(state)
