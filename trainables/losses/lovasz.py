"""Lovasz-softmax, a surrogate of intersection over union (Berman et al. 2018, arXiv 1705.08790).

Shape suffixes: B batch, K classes, H height, W width, P pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.data.labels import IGNORE


def lovasz_softmax(logits_BKHW: Tensor, labels_BHW: Tensor) -> Tensor:
    """The mean over the classes of a batch's labels (equations 9 and 11); without labels 0.

    A class's errors are sorted in descending order; each counts as much as the Jaccard loss grows
    when it is added to those before it.
    """
    probabilities_PK = F.softmax(logits_BKHW.float(), 1).movedim(1, -1).flatten(0, 2)
    labels_P1 = labels_BHW.reshape(-1, 1)
    labels_PK = labels_P1 == torch.arange(logits_BKHW.shape[1], device=labels_BHW.device)
    # Ignored pixels have no error and come last, since selecting the others would synchronise
    errors_PK = (labels_PK.float() - probabilities_PK).abs().masked_fill(labels_P1 == IGNORE, 0)
    errors_PK, order_PK = errors_PK.sort(0, descending=True)
    sorted_PK = labels_PK.gather(0, order_PK).float()
    totals_K = labels_PK.sum(0)
    intersection_PK = totals_K - sorted_PK.cumsum(0)
    union_PK = totals_K + (1 - sorted_PK).cumsum(0)
    jaccard_PK = 1 - intersection_PK / union_PK
    growth_PK = torch.cat([jaccard_PK[:1], jaccard_PK.diff(dim=0)])
    present_K = totals_K > 0
    losses_K = (errors_PK * growth_PK).sum(0)
    return losses_K.masked_fill(~present_K, 0).sum() / present_K.sum().clamp(min=1)
