"""Pair-wise distillation (Liu et al. 2019, arXiv 1903.04197, section 3.2).

Shape suffixes: B batch, C channels, h, w feature height and width, N nodes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.losses.distillation import TermLoss
from trainables.models.base import Outputs


class PairwiseLoss(TermLoss):
    """`pairwise_loss` at one size of nodes."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, student: Outputs, teacher: Outputs, labels_BHW: Tensor) -> Tensor:
        return pairwise_loss(student.features, teacher.features, self.patch)


def pairwise_loss(student_BChw: Tensor, teacher_BChw: Tensor, patch: int) -> Tensor:
    """Mean squared difference between the two nets' cosine similarities of all node pairs.

    Both maps are average-pooled to one grid of nodes, `patch` pixels a side on the coarser map, so
    channels and resolutions may differ. No gradient reaches the teacher. Memory grows with B*N^2.
    """
    coarser = torch.tensor([student_BChw.shape[-2:], teacher_BChw.shape[-2:]]).amin(0)
    height, width = (coarser // patch).clamp(min=1).tolist()
    student = similarities(student_BChw.float(), (height, width))
    teacher = similarities(teacher_BChw.detach().float(), (height, width))
    return F.mse_loss(student, teacher)


def similarities(features_BChw: Tensor, nodes: tuple[int, int]) -> Tensor:
    """Cosine similarity (B,N,N) between every two nodes of the pooled feature map."""
    pooled_BCN = F.adaptive_avg_pool2d(features_BChw, nodes).flatten(2)
    unit_BCN = F.normalize(pooled_BCN, dim=1)
    return torch.bmm(unit_BCN.transpose(1, 2), unit_BCN)
