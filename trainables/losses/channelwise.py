"""Channel-wise distillation, CWD (Shu et al. 2021, arXiv 2011.13256, section 3.2).

Shape suffixes: B batch, C channels (of logits: classes), H, W height and width, P pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.data.labels import IGNORE
from trainables.losses.distillation import TermLoss
from trainables.losses.feature_maps import pool_alike
from trainables.models.base import Outputs

HIDDEN = torch.finfo(torch.float32).min / 2
"""The value of pixels that get no probability; finite, because differences of two are taken."""


class ChannelwiseLoss(TermLoss):
    """`channelwise_loss` of logits, at labelled pixels."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, labels_BHW: Tensor) -> Tensor:
        is_valid_BHW = labels_BHW != IGNORE
        return channelwise_loss(student.logits, teacher.logits, self.temperature, is_valid_BHW)


class ChannelwiseFeaturesLoss(TermLoss):
    """`channelwise_loss` of the deepest feature maps, at the coarser one's resolution."""

    def __init__(self, projection: nn.Module, temperature: float) -> None:
        """`projection` gives the student's features the channels of the teacher's."""
        super().__init__()
        self.projection, self.temperature = projection, temperature

    def forward(self, student: Outputs, teacher: Outputs, labels_BHW: Tensor) -> Tensor:
        ours, theirs = pool_alike(student.features, teacher.features)
        return channelwise_loss(self.projection(ours), theirs, self.temperature)


def channelwise_loss(
    student_BCHW: Tensor,
    teacher_BCHW: Tensor,
    temperature: float,
    counts_BHW: Tensor | None = None,
) -> Tensor:
    """T^2 / (B C) times the sum over maps of KL(softmax(teacher/T) || softmax(student/T)), in nats.

    Each channel of each image is one distribution over the pixels that count (all, where
    `counts_BHW` is None). An image without any gives 0. No gradient reaches the teacher.
    """
    student = over_pixels(student_BCHW, temperature, counts_BHW)
    teacher = over_pixels(teacher_BCHW.detach(), temperature, counts_BHW)
    total = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return temperature**2 * total / student[..., 0].numel()


def over_pixels(maps_BCHW: Tensor, temperature: float, counts_BHW: Tensor | None) -> Tensor:
    """The logarithms (B,C,P) of each map's softmax over the pixels that count."""
    scaled_BCHW = maps_BCHW.float() / temperature
    if counts_BHW is not None:
        scaled_BCHW = scaled_BCHW.masked_fill(~counts_BHW[:, None], HIDDEN)
    return F.log_softmax(scaled_BCHW.flatten(2), dim=2)
