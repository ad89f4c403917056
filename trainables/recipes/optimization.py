"""How weights move: AdamW (arXiv 1711.05101) under a one-cycle schedule (arXiv 1708.07120)."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from trainables.core.config_base import FrozenConfig
from trainables.quantization.layers import QuantizedLayer


class AdamW(FrozenConfig):
    """The learning rate is the peak of the cycle; biases, normalisation and steps do not decay."""

    learning_rate: float = Field(4e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)


class QuantizerLearningRates(FrozenConfig):
    """Peak learning rates of the logarithms of the quantization steps."""

    weight: float = Field(1e-3, gt=0)
    activation: float = Field(1e-2, gt=0)


class OptimizerLoop:
    """Takes `num_steps` optimizer steps along one cycle, each for the losses of `parts` batches."""

    def __init__(
        self,
        model: nn.Module,
        adamw: AdamW,
        num_steps: int,
        parts: int,
        rates: QuantizerLearningRates | None = None,
    ) -> None:
        self.parts, self.num_losses = parts, 0
        groups = parameter_groups(model, adamw, rates or QuantizerLearningRates())
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, [group["lr"] for group in groups], total_steps=num_steps
        )

    def step(self, loss: Tensor) -> None:
        """Adds the gradient of `loss`; after `parts` of them, one update against their mean."""
        (loss / self.parts).backward()  # type: ignore[no-untyped-call]
        self.num_losses += 1
        if self.num_losses % self.parts == 0:
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """What goes on after a checkpoint."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "num_losses": self.num_losses,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.num_losses = state["num_losses"]

    @property
    def num_steps_taken(self) -> int:
        """Updates so far."""
        return self.num_losses // self.parts


def parameter_groups(
    model: nn.Module, adamw: AdamW, rates: QuantizerLearningRates
) -> list[dict[str, Any]]:
    weight_steps, input_steps = [], []
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            weight_steps += parameters(module.weight_quantizer)
            input_steps += parameters(module.input_quantizer)
    steps = {id(p) for p in weight_steps + input_steps}
    others = [p for p in model.parameters() if id(p) not in steps]
    groups = [
        ([p for p in others if p.ndim > 1], adamw.learning_rate, adamw.weight_decay),
        ([p for p in others if p.ndim <= 1], adamw.learning_rate, 0.0),
        (weight_steps, rates.weight, 0.0),
        (list(dict.fromkeys(input_steps)), rates.activation, 0.0),  # some are shared
    ]
    return [
        {"params": params, "lr": rate, "weight_decay": decay}
        for params, rate, decay in groups
        if params
    ]


def parameters(module: nn.Module | None) -> list[nn.Parameter]:
    return list(module.parameters()) if module else []
