"""Cross-entropy with the labels.

Shape suffixes: B batch, K classes, H height, W width.
"""

from torch import Tensor
from torch.nn import functional as F

from trainables.data.labels import IGNORE


def cross_entropy(
    logits_BKHW: Tensor, labels_BHW: Tensor, weights_K: Tensor | None = None
) -> Tensor:
    """Mean over labelled pixels, in nats, of what the weight of a pixel's class multiplies.

    The sum is divided by the number of pixels, not by the sum of their weights, so that the halves
    of a batch have the gradient of the whole. A batch without labelled pixels gives 0.
    """
    total = F.cross_entropy(
        logits_BKHW.float(), labels_BHW, weights_K, ignore_index=IGNORE, reduction="sum"
    )
    return total / (labels_BHW != IGNORE).sum().clamp(min=1)
