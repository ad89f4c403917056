"""Feature maps of two networks, made comparable.

Shape suffixes: B batch, C channels, h, w height and width.
"""

from torch import Tensor, nn
from torch.nn import functional as F


def coarser_size(student_BChw: Tensor, teacher_BChw: Tensor) -> tuple[int, int]:
    """The smaller of the two heights, and of the two widths, in feature pixels."""
    (height, width), (other_height, other_width) = student_BChw.shape[-2:], teacher_BChw.shape[-2:]
    return min(height, other_height), min(width, other_width)


def pool_alike(student_BChw: Tensor, teacher_BChw: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32, averaged to the coarser one's size; no gradient reaches the teacher."""
    size = coarser_size(student_BChw, teacher_BChw)
    student = F.adaptive_avg_pool2d(student_BChw.float(), size)
    return student, F.adaptive_avg_pool2d(teacher_BChw.detach().float(), size)


def project_channels(student_BChw: Tensor, teacher_BChw: Tensor) -> nn.Module:
    """Maps the student's channels to the teacher's number: a 1x1 convolution where they differ."""
    before, after = student_BChw.shape[1], teacher_BChw.shape[1]
    return nn.Identity() if before == after else nn.Conv2d(before, after, 1)
