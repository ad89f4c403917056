"""Cross-entropy with the labels.

Shape suffixes: B batch, K classes, H height, W width.
"""

from torch import Tensor
from torch.nn import functional as F

from trainables.data.labels import IGNORE


def cross_entropy(logits_BKHW: Tensor, labels_BHW: Tensor) -> Tensor:
    """Mean over labelled pixels, in nats; a batch without any gives 0."""
    total = F.cross_entropy(logits_BKHW.float(), labels_BHW, ignore_index=IGNORE, reduction="sum")
    return total / (labels_BHW != IGNORE).sum().clamp(min=1)
