"""Weights of classes in the loss on labels, from how often they occur in training.

`sqrt` is the square root of the inverse frequency; `enet` is 1 / ln(1.02 + frequency) (Paszke et
al. 2016, arXiv 1606.02147, section 5.2); `median` is median frequency balancing, where a class's
frequency counts the images that hold it alone (Eigen and Fergus 2015, arXiv 1411.4734, section
6.3.2).
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.data.label_counts import LabelCounts
from trainables.losses.configs import Balance

LARGEST = 4.0
"""Largest weight, as a multiple of that of the median class: full weights of very rare classes cost
more accuracy of common ones than they gain."""
Floats = NDArray[np.float64]
INVERSE_FREQUENCY: dict[Balance, Callable[[Floats, Floats], Floats]] = {
    "none": lambda pixels, of_images: np.ones_like(pixels),
    "sqrt": lambda pixels, of_images: (pixels.sum() / pixels) ** 0.5,
    "enet": lambda pixels, of_images: 1 / np.log(1.02 + pixels / pixels.sum()),
    "median": lambda pixels, of_images: of_images / pixels,
}


def compute_class_weights(counts: LabelCounts, balance: Balance) -> Tensor:
    """A weight (K,) for each class, whose mean over the labelled pixels is 1.

    Classes without pixels get 0.
    """
    pixels, of_images = np.array(counts.pixels, float), np.array(counts.pixels_of_images, float)
    present, weights = pixels > 0, np.zeros(len(pixels))
    found = INVERSE_FREQUENCY[balance](pixels[present], of_images[present])
    weights[present] = np.minimum(found / np.median(found), LARGEST)
    weights *= pixels.sum() / (weights * pixels).sum()
    return torch.from_numpy(weights).float()
