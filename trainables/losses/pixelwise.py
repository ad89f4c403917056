"""Pixel-wise distillation (Hinton et al. 2015; Liu et al. 2019, arXiv 1903.04197, section 3.1).

Shape suffixes: B batch, K classes, H height, W width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.data.labels import IGNORE, UNLABELLED
from trainables.losses.configs import Where
from trainables.losses.distillation import TermLoss
from trainables.models.base import Outputs, predicted_classes


class PixelwiseLoss(TermLoss):
    """`pixelwise_loss` with one temperature, choice of pixels and weights of classes."""

    class_weights: Tensor | None

    def __init__(self, temperature: float, where: Where, class_weights_K: Tensor | None) -> None:
        super().__init__()
        self.temperature, self.where = temperature, where
        self.register_buffer("class_weights", class_weights_K, persistent=False)

    def forward(self, student: Outputs, teacher: Outputs, labels_BHW: Tensor) -> Tensor:
        return pixelwise_loss(
            student.logits,
            teacher.logits,
            labels_BHW,
            self.temperature,
            self.where,
            self.class_weights,
        )


def pixelwise_loss(
    student_BKHW: Tensor,
    teacher_BKHW: Tensor,
    labels_BHW: Tensor,
    temperature: float,
    where: Where = "all",
    class_weights_K: Tensor | None = None,
) -> Tensor:
    """Mean over labelled pixels of T^2 w KL(softmax(teacher/T) || softmax(student/T)), in nats.

    w is the weight of the pixel's class, so that its divergence counts as its cross-entropy does.
    With `where` "teacher_right" it is 0 at pixels that the teacher classifies wrongly, from which
    the student learns by their labels alone (Meng et al. 2019, arXiv 1904.12399). The mean is
    always that over all labelled pixels. No gradient reaches the teacher; a batch without labelled
    pixels gives 0.

    Pixels of unlabelled images count as labelled ones: with the class that the teacher gives them,
    about which it is right.
    """
    teacher = F.log_softmax(teacher_BKHW.detach().float() / temperature, dim=1)
    student = F.log_softmax(student_BKHW.float() / temperature, dim=1)
    divergence_BHW = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    valid_BHW = labels_BHW != IGNORE
    counts_BHW = valid_BHW
    if where == "teacher_right" or class_weights_K is not None:
        taught_BHW = predicted_classes(teacher_BKHW)
        labels_BHW = torch.where(labels_BHW == UNLABELLED, taught_BHW, labels_BHW)
        if where == "teacher_right":
            counts_BHW = taught_BHW == labels_BHW  # never where the label is IGNORE
    if class_weights_K is not None:
        divergence_BHW = divergence_BHW * class_weights_K[labels_BHW.masked_fill(~valid_BHW, 0)]
    total = divergence_BHW.masked_fill(~counts_BHW, 0).sum()
    return temperature**2 * total / valid_BHW.sum().clamp(min=1)
