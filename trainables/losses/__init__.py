"""Distillation terms, added to the cross-entropy with the labels."""

from torch import Tensor

from trainables.core.config_base import FrozenConfig
from trainables.losses.pairwise import Pairwise
from trainables.losses.pixelwise import Pixelwise
from trainables.models.base import Outputs

DistillationTerm = Pixelwise | Pairwise


class DistillationLosses(FrozenConfig):
    """The terms that bind the student to the teacher; None leaves a term out."""

    pixelwise: Pixelwise | None = Pixelwise()
    pairwise: Pairwise | None = None

    def terms(self, student: Outputs, teacher: Outputs, labels_BHW: Tensor) -> dict[str, Tensor]:
        """Each present term by name, multiplied by its weight: scalars to be summed."""
        present: list[DistillationTerm] = [t for t in (self.pixelwise, self.pairwise) if t]
        return {term.name: term.weight * term(student, teacher, labels_BHW) for term in present}
