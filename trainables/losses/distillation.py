"""The terms of a distillation loss together, with the parameters that they may own."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainables.losses.configs import Term
from trainables.models.base import Outputs

SUFFIX = "_loss"
"""Of a term's module, which can then not bear the name of a method of ModuleDict, as "values"."""


class TermLoss(nn.Module):
    """One term: a scalar of the student's and the teacher's outputs and the labels (B,H,W)."""

    def forward(self, student: Outputs, teacher: Outputs, labels_BHW: Tensor) -> Tensor:
        raise NotImplementedError


class DistillationLoss(nn.Module):
    """Each term by name, multiplied by its weight: scalars to be summed."""

    def __init__(
        self, terms: Mapping[str, Term], student: Outputs, teacher: Outputs, seed: int
    ) -> None:
        """`student` and `teacher` are example outputs; `seed` draws the terms' own parameters."""
        super().__init__()
        self.weights = {name: term.weight for name, term in terms.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            losses = {
                f"{name}{SUFFIX}": term.build(student, teacher) for name, term in terms.items()
            }
        self.losses = nn.ModuleDict(losses).to(student.logits.device)

    def forward(self, student: Outputs, teacher: Outputs, labels_BHW: Tensor) -> dict[str, Tensor]:
        return {
            name: weight * self.losses[f"{name}{SUFFIX}"](student, teacher, labels_BHW)
            for name, weight in self.weights.items()
        }
