"""Label conventions of PASCAL VOC."""

import numpy as np
from numpy.typing import NDArray

IGNORE = 255
"""The mask value of pixels that are ignored in training and evaluation."""
UNLABELLED = 256
"""The label, in a batch, of pixels of unlabelled images: they have no class, but are distilled.

No 8-bit mask holds it and no class has this index.
"""

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip


def voc_palette() -> NDArray[np.uint8]:
    """The 256 colours (256,3) of PASCAL VOC's masks: the bits of an index, spread over RGB."""
    index = np.arange(256)
    colors = np.zeros((256, 3), np.int64)
    for place in range(8):
        for channel in range(3):
            colors[:, channel] |= (index >> 3 * place + channel & 1) << 7 - place
    return colors.astype(np.uint8)
