"""Pixel-wise distillation (Hinton et al. 2015; Liu et al. 2019, arXiv 1903.04197, section 3.1).

Shape suffixes: B batch, K classes, H height, W width.
"""

from torch import Tensor
from torch.nn import functional as F

from trainables.data.labels import IGNORE
from trainables.losses.distillation import TermLoss
from trainables.models.base import Outputs


class PixelwiseLoss(TermLoss):
    """`pixelwise_loss` at one temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, labels_BHW: Tensor) -> Tensor:
        return pixelwise_loss(student.logits, teacher.logits, labels_BHW, self.temperature)


def pixelwise_loss(
    student_BKHW: Tensor, teacher_BKHW: Tensor, labels_BHW: Tensor, temperature: float
) -> Tensor:
    """Mean over labelled pixels of T^2 KL(softmax(teacher/T) || softmax(student/T)), in nats.

    No gradient reaches the teacher; a batch without labelled pixels gives 0.
    """
    teacher = F.log_softmax(teacher_BKHW.detach().float() / temperature, dim=1)
    student = F.log_softmax(student_BKHW.float() / temperature, dim=1)
    divergence_BHW = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    valid_BHW = labels_BHW != IGNORE
    total = divergence_BHW.masked_fill(~valid_BHW, 0).sum()
    return temperature**2 * total / valid_BHW.sum().clamp(min=1)
