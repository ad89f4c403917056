"""Evaluation by one confusion matrix over the whole validation split.

Shape suffixes: B batch, K classes, H height, W width.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from trainables.data.augmentation import classes_at, normalize
from trainables.data.base import OwnLabels
from trainables.data.labels import IGNORE
from trainables.data.loader import Loader, send
from trainables.data.packed import PackedDataset, count_labels, count_values, images_of
from trainables.models.base import predicted_classes
from trainables.quantization.convert import ConvertedLayer
from trainables.recipes.captured import Captured

BATCH_SIZE = 16
MIN_REPLAYED = 16
"""Batches from which a graph, which is recorded anew in each evaluation, is taken to gain time."""


@dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix (K,K), rows = labels, columns = predictions, in pixels."""

    confusion: Tensor

    @property
    def miou(self) -> float:
        """Intersection over union, averaged over the classes that occur in the labels; in [0,1]."""
        return float(self._iou[self._is_labelled].mean())

    @property
    def class_iou(self) -> tuple[float | None, ...]:
        """Intersection over union of each class, in [0,1]; None for a class that no label holds."""
        pairs = zip(self._iou.tolist(), self._is_labelled.tolist(), strict=True)
        return tuple(iou if is_labelled else None for iou, is_labelled in pairs)

    @property
    def never_predicted(self) -> tuple[int, ...]:
        """The classes that labels hold and no labelled pixel is predicted as."""
        is_missed = self._is_labelled & (self.confusion.sum(0) == 0)
        return tuple(is_missed.nonzero().flatten().tolist())

    @property
    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are classified correctly; in [0,1]."""
        return float(self.confusion.diag().sum() / self.confusion.sum())

    @property
    def commonest_prediction(self) -> tuple[int, float]:
        """The class predicted most often and its share of all predictions."""
        predicted = self.confusion.sum(0)
        return int(predicted.argmax()), float(predicted.max() / predicted.sum())

    @property
    def _is_labelled(self) -> Tensor:
        return self.confusion.sum(1) > 0

    @property
    def _iou(self) -> Tensor:
        hits = self.confusion.diag().double()
        union = self.confusion.sum(1) + self.confusion.sum(0) - hits
        return hits / union.clamp(min=1)

    def majority(self) -> "Scores":
        """The scores of predicting the commonest label everywhere."""
        labelled = self.confusion.sum(1)
        everywhere = torch.zeros_like(self.confusion)
        everywhere[:, labelled.argmax()] = labelled
        return Scores(everywhere)


def commonest_miou(data: PackedDataset) -> float:
    """The mIoU of predicting the commonest class of the validation split everywhere."""
    if data.own_labels is None:
        counts = count_labels(data.val)
    else:
        counts = count_values(labels.decode() for labels in data.own_labels)
    return Scores(torch.from_numpy(counts[: data.num_classes]).diag()).majority().miou


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Loader,
    num_classes: int,
    on_batch_end: Callable[[], None] = lambda: None,
    own_labels: Iterable[OwnLabels] | None = None,
) -> Scores:
    """Scores of `model`, in evaluation mode and full precision, on every sample of a split.

    They are measured on the labels at their own size, where the split has `own_labels`.
    `on_batch_end` is called after each batch.
    """
    training = model.training
    model.eval()
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=split.device)
    own = None if own_labels is None else iter(own_labels)
    logits_of = prediction(model, split)
    for batch in split.in_order(BATCH_SIZE):
        logits = logits_of(normalize(images_of(batch)))
        for predicted, labels in with_labels(logits, batch["mask"], own):
            confusion += confusion_matrix(predicted, labels, num_classes)
        on_batch_end()
    model.train(training)
    return Scores(confusion.cpu())


@torch.no_grad()
def count_disagreeing_pixels(
    first: nn.Module,
    second: nn.Module,
    split: Loader,
    on_batch_end: Callable[[], None] = lambda: None,
) -> int:
    """Pixels of a split that two models, both evaluated as above, give different classes."""
    training = first.training
    first.eval(), second.eval()
    changed = torch.zeros((), dtype=torch.int64, device=split.device)
    first_logits, second_logits = (prediction(model, split) for model in (first, second))
    for batch in split.in_order(BATCH_SIZE):
        images = normalize(images_of(batch))
        changed += (
            predicted_classes(first_logits(images)) != predicted_classes(second_logits(images))
        ).sum()
        on_batch_end()
    first.train(training)
    return int(changed)


def prediction(model: nn.Module, split: Loader) -> Callable[[Tensor], Tensor]:
    """Logits (B,K,H,W) of normalised images (B,3,H,W); each call may overwrite those before.

    A GPU replays them for a split of many batches, except for a converted network, which reads
    values back from it.
    """

    def logits_of(images: Tensor) -> Tensor:
        logits: Tensor = model(images)
        return logits

    is_short = len(split) < MIN_REPLAYED * BATCH_SIZE
    is_converted = any(isinstance(module, ConvertedLayer) for module in model.modules())
    return logits_of if is_short or is_converted else Captured(logits_of)


def with_labels(
    logits_BKHW: Tensor, masks_BHW: Tensor, own: Iterator[OwnLabels] | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predicted classes of a batch and their labels, both (n,H,W), on the device of the logits.

    Those of the whole batch and `masks_BHW` where `own` is None. Otherwise image by image, with the
    next of `own`: the logits of the image, without its padding, are resized bilinearly to the size
    of its labels before their argmax is taken.
    """
    if own is None:
        yield predicted_classes(logits_BKHW), masks_BHW
        return
    for logits_KHW, labels in zip(logits_BKHW, islice(own, len(logits_BKHW)), strict=True):
        content_KHW = logits_KHW[:, : labels.content_height, : labels.content_width].contiguous()
        labels_HW = send(torch.from_numpy(labels.decode()), logits_KHW.device)
        yield classes_at(content_KHW[None], (labels.height, labels.width))[None], labels_HW[None]


def confusion_matrix(predicted_BHW: Tensor, labels_BHW: Tensor, num_classes: int) -> Tensor:
    """Pixel counts (K,K), rows = labels, columns = predictions; ignored pixels do not count."""
    # Ignored pixels get a cell of their own: selecting the others would synchronise the device
    cells = num_classes**2
    pairs = labels_BHW.long() * num_classes + predicted_BHW
    pairs = pairs.masked_fill(labels_BHW == IGNORE, cells).flatten()
    counts = torch.zeros(cells + 1, dtype=torch.int64, device=pairs.device)
    counts.scatter_add_(0, pairs, torch.ones_like(pairs))
    return counts[:cells].view(num_classes, num_classes)
