"""Pair-wise distillation (Liu et al. 2019, arXiv 1903.04197, section 3.2).

Shape suffixes: B batch, C channels, h, w feature height and width, N nodes.
"""

from itertools import count

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.losses.distillation import TermLoss
from trainables.losses.feature_maps import coarser_size
from trainables.models.base import Outputs


class PairwiseLoss(TermLoss):
    """`pairwise_loss` of the deepest features, at one size of nodes."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, student: Outputs, teacher: Outputs, labels_BHW: Tensor) -> Tensor:
        size = coarser_size(student.features, teacher.features)
        return pairwise_loss(student.features, teacher.features, node_grid(size, self.patch))


class PairwiseDecoderLoss(TermLoss):
    """`pairwise_loss` of the decoders' features, at the smallest nodes of which there are few."""

    def __init__(self, max_nodes: int) -> None:
        super().__init__()
        self.max_nodes = max_nodes

    def forward(self, student: Outputs, teacher: Outputs, labels_BHW: Tensor) -> Tensor:
        assert student.decoder is not None, "DistillationLoss checks it"
        assert teacher.decoder is not None, "DistillationLoss checks it"
        size = coarser_size(student.decoder, teacher.decoder)
        grids = (node_grid(size, patch) for patch in count(1))
        nodes = next(grid for grid in grids if grid[0] * grid[1] <= self.max_nodes)
        return pairwise_loss(student.decoder, teacher.decoder, nodes)


def node_grid(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Rows and columns of nodes, `patch` pixels a side, on a map of a height and a width."""
    return max(1, size[0] // patch), max(1, size[1] // patch)


def pairwise_loss(student_BChw: Tensor, teacher_BChw: Tensor, nodes: tuple[int, int]) -> Tensor:
    """Mean squared difference between the two nets' cosine similarities of all node pairs.

    Both maps are average-pooled to one grid of nodes, so channels and resolutions may differ. No
    gradient reaches the teacher. Memory grows with B*N^2.
    """
    student = similarities(student_BChw.float(), nodes)
    teacher = similarities(teacher_BChw.detach().float(), nodes)
    return F.mse_loss(student, teacher)


def similarities(features_BChw: Tensor, nodes: tuple[int, int]) -> Tensor:
    """Cosine similarity (B,N,N) between every two nodes of the pooled feature map."""
    pooled_BCN = F.adaptive_avg_pool2d(features_BChw, nodes).flatten(2)
    unit_BCN = F.normalize(pooled_BCN, dim=1)
    return torch.bmm(unit_BCN.transpose(1, 2), unit_BCN)
