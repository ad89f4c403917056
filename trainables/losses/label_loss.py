"""The loss on labels, with or without a teacher."""

from collections.abc import Callable

from torch import Tensor

from trainables.data.labels import IGNORE, UNLABELLED
from trainables.losses.configs import LabelLossConfig, Overlap
from trainables.losses.cross_entropy import cross_entropy
from trainables.losses.dice import dice
from trainables.losses.lovasz import lovasz_softmax

OVERLAPS: dict[Overlap, Callable[[Tensor, Tensor], Tensor]] = {
    "lovasz": lovasz_softmax,
    "dice": dice,
}


class LabelLoss:
    """Cross-entropy, in which classes are weighted, and the term for overlap, if there is one."""

    def __init__(self, config: LabelLossConfig, weights: Tensor | None) -> None:
        """`weights` has shape (K,); None: all classes count alike."""
        self.config, self.weights = config, weights

    def __call__(self, logits_BKHW: Tensor, labels_BHW: Tensor) -> dict[str, Tensor]:
        """The losses by name, to be summed; pixels of unlabelled images have no part in them."""
        labels_BHW = labels_BHW.masked_fill(labels_BHW == UNLABELLED, IGNORE)
        terms = {"cross_entropy": cross_entropy(logits_BKHW, labels_BHW, self.weights)}
        if self.config.overlap != "none":
            overlap = OVERLAPS[self.config.overlap](logits_BKHW, labels_BHW)
            terms[self.config.overlap] = self.config.overlap_weight * overlap
        return terms
