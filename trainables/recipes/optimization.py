"""Optimization: AdamW (arXiv 1711.05101) with one cycle of learning rates (arXiv 1708.07120), or
with half a cosine in each phase of a training (arXiv 1608.03983, equation 5)."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainables.quantization.layers import QuantizedLayer
from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer
from trainables.recipes.adamw import FlatAdamW
from trainables.recipes.configs import AdamW, QuantizerLearningRates


class OptimizerLoop:
    """Takes `num_steps` optimizer steps, each from `accumulation_steps` losses."""

    def __init__(
        self,
        model: nn.Module,
        adamw: AdamW,
        num_steps: int,
        accumulation_steps: int,
        rates: QuantizerLearningRates | None = None,
        learned: nn.Module | None = None,
        ema_decay: float = 0.0,
        cosine_phases: Sequence[int] = (),
    ) -> None:
        """`learned` has parameters of the loss, which are trained with those of the model.

        `cosine_phases` are the numbers of steps of phases; without any there is one cycle.
        """
        self.accumulation_steps, self.num_losses = accumulation_steps, 0
        self.model, self.ema_decay = model, ema_decay
        self.average: AveragedModel | None = None
        self.restart_average()
        parts = model if learned is None else nn.ModuleList([model, learned])
        groups = parameter_groups(parts, adamw, rates or QuantizerLearningRates())
        self.optimizer = FlatAdamW(groups)
        self.schedule: LRScheduler = (
            LambdaLR(self.optimizer, partial(cosine, phases=cosine_phases))
            if cosine_phases
            else OneCycleLR(self.optimizer, [group["lr"] for group in groups], num_steps)
        )

    def step(self, loss: Tensor) -> None:
        """Adds the gradient of `loss`; an update follows the mean of `accumulation_steps` ones."""
        self.backward(loss)
        self.update()

    def backward(self, loss: Tensor) -> None:
        """Adds the share of `loss` in the gradient of the next update."""
        (loss / self.accumulation_steps).backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """Counts a loss whose gradient was added; updates the model after the last of a step."""
        self.optimizer.flatten()
        self.num_losses += 1
        if self.num_losses % self.accumulation_steps == 0:
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad(set_to_none=False)  # a graph adds to them where they are
            if self.average is not None:
                self._update(self.average)

    @torch.no_grad()
    def _update(self, average: AveragedModel) -> None:
        """Moves the average towards the weights (arXiv 1703.01780, section 2).

        The decay grows from step to step, so that random weights of the beginning are forgotten.
        """
        step = int(average.n_averaged)  # which does not lie on the device
        decay = min(self.ema_decay, (1 + step) / (10 + step))
        averages, now = (
            [*module.parameters(), *module.buffers()] for module in (average.module, self.model)
        )
        averaged = [step > 0 and each.is_floating_point() for each in now]
        if step > 0:  # `update_parameters` would copy the count to the device, and wait for it
            lists = [list(compress(each, averaged)) for each in (averages, now)]
            get_ema_multi_avg_fn(decay)(*lists, step)  # type: ignore[no-untyped-call]
        for to, value, is_averaged in zip(averages, now, averaged, strict=True):
            if not is_averaged:
                to.copy_(value)
        average.n_averaged += 1

    def restart_average(self) -> None:
        """Begins the moving average of the weights anew, if there is to be one."""
        if self.ema_decay:
            self.average = AveragedModel(self.model, use_buffers=True)

    @property
    def shipped(self) -> nn.Module:
        """The network to evaluate and to ship: the model, or its moving average."""
        return self.model if self.average is None else self.average.module

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        average = {} if self.average is None else {"average": self.average.state_dict()}
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "num_losses": self.num_losses,
            **average,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.num_losses = state["num_losses"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    @property
    def num_steps_taken(self) -> int:
        """The number of updates so far."""
        return self.num_losses // self.accumulation_steps


def cosine(step: int, phases: Sequence[int]) -> float:
    """The factor of the learning rate: from 1 to 0 in each phase; 0 after the last."""
    for num_steps in phases:
        if step < num_steps:
            return (1 + math.cos(math.pi * step / num_steps)) / 2
        step -= num_steps
    return 0.0


def parameter_groups(
    model: nn.Module, adamw: AdamW, rates: QuantizerLearningRates
) -> list[dict[str, Any]]:
    layers = [module for module in model.modules() if isinstance(module, QuantizedLayer)]
    steps = [
        *by_rate([layer.weight_quantizer for layer in layers], rates.weight),
        *by_rate([layer.input_quantizer for layer in layers], rates.activation),
    ]
    quantizers = [module for module in model.modules() if isinstance(module, FakeQuantizer)]
    of_quantizers = {parameter for quantizer in quantizers for parameter in quantizer.parameters()}
    others = [p for p in model.parameters() if p not in of_quantizers]
    groups = [
        ([p for p in others if p.ndim > 1], adamw.learning_rate, adamw.weight_decay),
        ([p for p in others if p.ndim <= 1], adamw.learning_rate, 0.0),
        *((parameters, rate, 0.0) for parameters, rate in steps),
    ]
    return [
        {"params": params, "lr": rate, "weight_decay": decay}
        for params, rate, decay in groups
        if params
    ]


def by_rate(
    quantizers: Sequence[FakeQuantizer | None], rate: float
) -> list[tuple[list[nn.Parameter], float]]:
    """The learned parameters of quantizers, each once, with its learning rate."""
    found: dict[float, dict[nn.Parameter, None]] = {}
    for quantizer in quantizers:
        for parameter, factor in quantizer.learned_parameters() if quantizer else ():
            found.setdefault(factor * rate, {})[parameter] = None
    return [(list(parameters), rate) for rate, parameters in found.items()]
