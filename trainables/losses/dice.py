"""Dice loss (Milletari et al. 2016, arXiv 1606.04797), with a term for each class.

Shape suffixes: B batch, K classes, H height, W width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.data.labels import IGNORE


def dice(logits_BKHW: Tensor, labels_BHW: Tensor) -> Tensor:
    """1 - 2 sum(p t) / (sum(p^2) + sum(t)) over labelled pixels; mean over the batch's classes.

    p are the probabilities and t is 1 for the label's class (equation in section 3). A batch
    without labels gives 0.
    """
    valid_BHW = labels_BHW != IGNORE
    probabilities_BKHW = F.softmax(logits_BKHW.float(), 1) * valid_BHW[:, None]
    classes_K = torch.arange(logits_BKHW.shape[1], device=labels_BHW.device)
    targets_BKHW = labels_BHW[:, None] == classes_K[:, None, None]
    over = (0, 2, 3)
    totals_K = targets_BKHW.sum(over)
    overlap_K = (probabilities_BKHW * targets_BKHW).sum(over)
    losses_K = 1 - 2 * overlap_K / (probabilities_BKHW.square().sum(over) + totals_K).clamp(min=1)
    present_K = totals_K > 0
    losses_K = torch.where(present_K, losses_K, torch.zeros_like(losses_K))
    return losses_K.sum() / present_K.sum().clamp(min=1)
