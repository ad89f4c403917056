"""The terms of a distillation loss together, with the parameters that they may own."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainables.losses.configs import Term, TermWeights
from trainables.losses.uncertainty_weights import UncertaintyWeights
from trainables.models.base import Outputs

SUFFIX = "_loss"
"""Of a term's module, which can then not bear the name of a method of ModuleDict, as "values"."""


class TermLoss(nn.Module):
    """One term: a scalar of the student's and the teacher's outputs and the labels (B,H,W).

    Labels are class indices, IGNORE, or UNLABELLED at pixels that count without a class.
    """

    def forward(self, student: Outputs, teacher: Outputs, labels_BHW: Tensor) -> Tensor:
        raise NotImplementedError


class DistillationLoss(nn.Module):
    """Each term by name, multiplied by its weight: scalars to be summed by `total`."""

    def __init__(
        self,
        terms: Mapping[str, Term],
        student: Outputs,
        teacher: Outputs,
        seed: int,
        class_weights_K: Tensor | None = None,
        term_weights: TermWeights = "fixed",
    ) -> None:
        """Builds the terms.

        Args:
            terms: by the names under which they are reported.
            student: example outputs.
            teacher: example outputs for the same images.
            seed: draws the terms' own parameters.
            class_weights_K: of the cross-entropy with the labels; None where classes count alike.
            term_weights: whether the terms and the loss on labels are balanced by
                `UncertaintyWeights`.

        Raises:
            ValueError: a term needs a feature map that one of the networks does not give.
        """
        check_feature_maps(terms, student, teacher)
        super().__init__()
        self.weights = {name: term.weight for name, term in terms.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            losses = {
                f"{name}{SUFFIX}": term.build(student, teacher, class_weights_K)
                for name, term in terms.items()
            }
        self.losses = nn.ModuleDict(losses)
        # The first weight is that of the loss on labels
        self.learned = UncertaintyWeights(len(losses) + 1) if term_weights == "learned" else None
        self.to(student.logits.device)

    def forward(self, student: Outputs, teacher: Outputs, labels_BHW: Tensor) -> dict[str, Tensor]:
        return {
            name: weight * self.losses[f"{name}{SUFFIX}"](student, teacher, labels_BHW)
            for name, weight in self.weights.items()
        }

    def total(self, label_losses: Mapping[str, Tensor], terms: Mapping[str, Tensor]) -> Tensor:
        """What is minimised: the sum of the losses on labels and the terms, balanced if learned."""
        losses = [torch.stack(list(label_losses.values())).sum(), *terms.values()]
        if self.learned is not None:
            losses = self.learned(losses, [1.0, *self.weights.values()])
        return torch.stack(losses).sum()


def check_feature_maps(terms: Mapping[str, Term], student: Outputs, teacher: Outputs) -> None:
    """Raises ValueError where a term needs decoders' features that a network does not give."""
    for name, term in terms.items():
        for whose, outputs in (("student", student), ("teacher", teacher)):
            if term.requires == "decoder" and outputs.decoder is None:
                raise ValueError(
                    f"the distillation term {name} must have a {whose} whose decoder gives a "
                    "feature map, but this one gives none"
                )
