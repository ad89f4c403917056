"""The typed reports of an epoch of a trial, and of a teacher."""

from collections.abc import Iterable

from trainables.core.config_base import FrozenConfig


class Metrics(FrozenConfig):
    """The report of a trial after an epoch; the last report describes its model file.

    `time_ms` is when it was measured, in milliseconds since 1970.
    `miou` and `pixel_accuracy` are in [0,1], over the whole validation split. `class_iou` has the
    IoU of each class of the data in order, None for a class that no label holds, and
    `classes_never_predicted` is the number of classes that labels hold and no pixel is predicted
    as; both are None in reports of older versions. `losses` are means per labelled pixel over the
    epoch. `device_seconds` are the seconds this trial has trained and
    evaluated so far; `start_seconds` those of its full-precision pretraining, which trials share.
    `compressed_bytes` is the size of the model file after zstd; `size_bytes` is without it.
    `changed_pixels` of the validation split get another class by conversion, because of rounding.
    `macs` are multiply-accumulates per image. `ram_bytes` is the peak of the bytes of activations
    for one image; None in reports of older versions. `parts` is 2 where a batch did not fit into
    the device's memory, so that each optimizer step took two halves of one.
    """

    epoch: int
    time_ms: int
    losses: dict[str, float]
    miou: float
    pixel_accuracy: float
    class_iou: tuple[float | None, ...] | None = None
    classes_never_predicted: int | None = None
    size_bytes: int | None = None
    compressed_bytes: int | None = None
    changed_pixels: int | None = None
    model_sha256: str | None = None
    predicted_size_bytes: int
    num_params: int
    macs: int
    ram_bytes: int | None = None
    device_seconds: float
    start_seconds: float
    parts: int = 1

    @property
    def finished(self) -> bool:
        """Whether this is the last report of a finished training, which describes a model file."""
        return self.size_bytes is not None

    @property
    def share_never_predicted(self) -> str:
        """The classes that are never predicted, such as "3 of 11"; "" where they are not known."""
        if self.class_iou is None or self.classes_never_predicted is None:
            return ""
        return share_of_classes(self.classes_never_predicted, self.class_iou)


class SplitMetrics(FrozenConfig):
    """The scores of a network on one split, by class of the data in order.

    `class_iou` is as in `Metrics`; `never_predicted` are the indices of the classes that labels
    hold and no pixel is predicted as.
    """

    miou: float
    class_iou: tuple[float | None, ...]
    never_predicted: tuple[int, ...]


class TeacherMetrics(FrozenConfig):
    """The scores of a teacher on both splits, without augmentation."""

    train: SplitMetrics
    val: SplitMetrics


def share_of_classes(number: int, class_iou: Iterable[float | None]) -> str:
    """A number of the classes that labels hold, such as "3 of 11"."""
    return f"{number} of {sum(iou is not None for iou in class_iou)}"
