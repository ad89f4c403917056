"""Sanity checks: a student that does not learn fails with a reason and is never ranked."""

import math

from trainables.config import TrialConfig
from trainables.core.errors import NOT_FINITE, NOT_LEARNING, TrialFailed
from trainables.data.arrow_table import ArrowTable
from trainables.data.labels import IGNORE
from trainables.data.packed import PackedDataset, count_labels
from trainables.training.evaluation import Scores

GRACE_STEPS = 200
"""The narrowest U-Net on the built-in data predicts hardly more than one class after 130 steps: of
four seeds, in float32 and bfloat16, two are below 0.12 mIoU, and all above 0.18 after 220, where
one class has 0.10. They end at 0.27 to 0.52 (docs/log.md)."""
UNTRAINED_REASON = "calibration alone does not suit so few bits"
LABEL_LOSS = "cross_entropy"
"""Name of the loss on labels."""
MEMORIZED_CROSS_ENTROPY = 0.05
"""Cross-entropy below which a training split counts as memorised."""
MIN_MIOU_ABOVE_MAJORITY = 0.005
"""mIoU by which a student must beat the commonest class alone."""


def check_finite(losses: dict[str, float], epoch: int, config: TrialConfig) -> None:
    """Raises TrialFailed where a mean loss is not finite."""
    for name, value in losses.items():
        if not math.isfinite(value):
            rate = config.recipe.learning_rate_of(name)
            cause = f"the learning rate {rate:g} is likely too high" if rate else UNTRAINED_REASON
            raise TrialFailed(f"{NOT_FINITE}: loss {name} is {value} in epoch {epoch}; {cause}")


def grace_epochs(config: TrialConfig, num_steps: int) -> int:
    """Epochs after which a student must have exceeded the mIoU of the commonest class once.

    A quarter of the training, but at least 3 epochs and 200 optimizer steps if it has so many.
    """
    steps_per_epoch = num_steps / config.num_epochs
    least = max(3, config.num_epochs / 4, GRACE_STEPS / steps_per_epoch)
    return min(config.num_epochs, math.ceil(least))


def check_learning(
    best_miou: float,
    scores: Scores,
    losses: list[dict[str, float]],
    config: TrialConfig,
    num_steps: int,
    data: PackedDataset,
) -> None:
    """Raises TrialFailed where predicting the commonest class everywhere is as good.

    After the grace period the best evaluated epoch so far is compared, at the end the last one.
    """
    epoch, baseline = len(losses), scores.majority().miou
    judged = scores.miou if epoch == config.num_epochs else best_miou
    if epoch < grace_epochs(config, num_steps) or judged > baseline + MIN_MIOU_ABOVE_MAJORITY:
        return
    raise TrialFailed(
        f"{NOT_LEARNING}: mIoU {scores.miou:.3f} after epoch {epoch}, predicting the commonest "
        f"class alone gives {baseline:.3f}; {likely_cause(scores, losses, config, data)}"
    )


def likely_cause(
    scores: Scores, losses: list[dict[str, float]], config: TrialConfig, data: PackedDataset
) -> str:
    rate = config.recipe.learning_rate
    for split, table in (("training", data.train), ("validation", data.val)):
        if cause := find_fault(table):
            return f"{cause} in the {split} split"
    if config.recipe.is_reference:
        return (
            "the network may have been trained on other classes, on classes in another order, or "
            "on images of another normalisation (--pretrained-normalization)"
        )
    if rate is None:
        return UNTRAINED_REASON
    name, first, last = most_informative_loss(losses)
    if name == "cross-entropy" and last < MEMORIZED_CROSS_ENTROPY:
        return (
            f"{name} fell to {last:.3f} in training: validation images or labels that are "
            "unlike those, or far too few training images"
        )
    if last > 1.1 * first or (last > 0.95 * first and rate > 1e-2):
        return f"{name} went from {first:.3f} to {last:.3f}: learning rate {rate:g} too high"
    if last > 0.95 * first:
        return (
            f"{name} went from {first:.3f} to {last:.3f}: learning rate {rate:g} too low, "
            "or labels that do not belong to the images"
        )
    common, share = scores.commonest_prediction
    if share > 0.95:
        return f"{share:.0%} of its pixels are class {common}: too few steps for rare classes"
    return f"{name} only fell from {first:.3f} to {last:.3f}: too few steps"


def most_informative_loss(losses: list[dict[str, float]]) -> tuple[str, float, float]:
    """The most informative loss, described in words, and its means in first and last epoch.

    That is cross-entropy, else the first loss that both epochs have, else their totals.
    """
    first, last = losses[0], losses[-1]
    common = [name for name in first if name in last]
    if LABEL_LOSS in common:
        return "cross-entropy", first[LABEL_LOSS], last[LABEL_LOSS]
    if common:
        return f"loss {common[0]}", first[common[0]], last[common[0]]
    return "the total loss", sum(first.values()), sum(last.values())


def find_fault(table: ArrowTable) -> str:
    """A description of why no network can learn the rows of a split; "" if one can."""
    if (count_labels(table)[:IGNORE] > 0).sum() < 2:
        return "there is one labelled class"
    images = table.chunks["image"]
    first = images[0][:1]
    if len(table) > 1 and all((chunk == first).all() for chunk in images):
        return "all images are equal"
    return ""
