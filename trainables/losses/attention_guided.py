"""Attention-guided feature distillation, AttnFD (Mansourian et al. 2024, arXiv 2403.05451).

The maps are refined by the gates of CBAM (Woo et al. 2018, arXiv 1807.06521, equations 1 and 2).
The gates have no weights of their own, as the authors' code builds them for teachers, so that what
is imitated does not depend on a random draw. Their code divides a map of a whole batch by one norm;
here each image has its own, and the loss does not depend on the size of the batch. Their weight of
2 at 6 images corresponds to 1/3 here. Their projections end with batch normalisation; these do not.

Shape suffixes: B batch, C channels, h, w height and width.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from trainables.losses.distillation import TermLoss
from trainables.losses.feature_maps import pool_alike, project_channels
from trainables.models.base import Outputs


class AttentionGuidedLoss(TermLoss):
    """The sum of `refined_distance` over the deepest and the decoders' features."""

    def __init__(self, student: Outputs, teacher: Outputs) -> None:
        """Sizes the projections by example outputs of both networks."""
        super().__init__()
        self.projections = nn.ModuleList(
            project_channels(ours, theirs) for ours, theirs in map_pairs(student, teacher)
        )

    def forward(self, student: Outputs, teacher: Outputs, labels_BHW: Tensor) -> Tensor:
        pairs = zip(self.projections, map_pairs(student, teacher), strict=True)
        first, second = (refined_distance(*pair, projection) for projection, pair in pairs)
        return first + second


def map_pairs(student: Outputs, teacher: Outputs) -> list[tuple[Tensor, Tensor]]:
    """The feature maps of the student, each with that of the teacher."""
    assert student.decoder is not None, "DistillationLoss checks it"
    assert teacher.decoder is not None, "DistillationLoss checks it"
    return [(student.features, teacher.features), (student.decoder, teacher.decoder)]


def refined_distance(student_BChw: Tensor, teacher_BChw: Tensor, projection: nn.Module) -> Tensor:
    """Mean over images of ||P(s) / ||P(s)|| - t / ||t|| ||^2, from 0 to 4.

    s and t are the refined maps at the coarser one's size, P is the projection to the teacher's
    channels, and norms are those of an image's whole map. No gradient reaches the teacher.
    """
    ours, theirs = pool_alike(student_BChw, teacher_BChw)
    ours = F.normalize(projection(refine(ours)).flatten(1), dim=1)
    theirs = F.normalize(refine(theirs).flatten(1), dim=1)
    return (ours - theirs).square().sum(1).mean()


def refine(features_BChw: Tensor) -> Tensor:
    """The features, gated by channel and then by place, with sigmoid(maximum + mean) as gates."""
    gates_BC11 = (features_BChw.amax((2, 3), True) + features_BChw.mean((2, 3), True)).sigmoid()
    gated_BChw = features_BChw * gates_BC11
    gates_B1hw = (gated_BChw.amax(1, True) + gated_BChw.mean(1, True)).sigmoid()
    return gated_BChw * gates_B1hw
