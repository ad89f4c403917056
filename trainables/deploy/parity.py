"""The parity check: mIoU of an exported model, and its agreement with a reference."""

from dataclasses import dataclass

import numpy as np
import torch

from trainables.data.augmentation import normalize
from trainables.data.loader import Loader
from trainables.data.packed import PackedDataset, images_of
from trainables.deploy.runtime import Network
from trainables.training.evaluation import Scores, confusion_matrix, with_labels

BATCH_SIZE = 4


@dataclass(frozen=True)
class Parity:
    """A model's scores, and the number of pixels whose class differs from its reference's.

    These are counted at the networks' input size.
    """

    scores: Scores
    changed_pixels: int
    num_pixels: int

    @property
    def miou(self) -> float:
        return self.scores.miou

    @property
    def changed_share(self) -> float:
        """Of all pixels."""
        return self.changed_pixels / self.num_pixels


def check_parity(model: Network, reference: Network, data: PackedDataset) -> Parity:
    """Runs both models on every image of the validation split."""
    confusion = torch.zeros(data.num_classes, data.num_classes, dtype=torch.int64)
    own = None if data.own_labels is None else iter(data.own_labels)
    changed = num_pixels = 0
    for batch in Loader(data.val, torch.device("cpu")).in_order(BATCH_SIZE):
        images = np.ascontiguousarray(normalize(images_of(batch)).numpy())
        logits = model(images)
        packed, expected = logits.argmax(1), reference(images).argmax(1)
        changed += int((packed != expected).sum())
        num_pixels += packed.size
        for predicted, labels in with_labels(torch.from_numpy(logits), batch["mask"], own):
            confusion += confusion_matrix(predicted, labels, data.num_classes)
    return Parity(Scores(confusion), changed, num_pixels)
