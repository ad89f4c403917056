"""Descriptions of why a student does not learn."""

import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from shared_fixtures import Blocks

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.errors import TrialFailed
from trainables.data.base import Sample, Split
from trainables.data.configs import Augmentation
from trainables.data.packed import PackedDataset, open_pack, pack_dataset
from trainables.data.registry import ShapesSource
from trainables.losses.configs import LabelLossConfig
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import AdamW, Original, Ptq, QatDistill, Supervised
from trainables.training.evaluation import Scores, commonest_miou
from trainables.training.sanity_checks import (
    check_finite,
    check_learning,
    grace_epochs,
    likely_cause,
)
from trainables.training.trial import Trial


class OneClass(Blocks):
    """Whose validation masks hold one class."""

    def digest(self) -> str:
        return "one class"

    def sample(self, split: Split, index: int) -> Sample:
        image, mask, _ = super().sample(split, index)
        return (
            Sample(image, np.where(mask == 255, 255, 3).astype(np.uint8))
            if split == "val"
            else (Sample(image, mask))
        )


class White(Blocks):
    """Whose training images are all white, as 16-bit images that are cut off at 8 bits."""

    def digest(self) -> str:
        return "white"

    def sample(self, split: Split, index: int) -> Sample:
        image, mask, _ = super().sample(split, index)
        return Sample(np.full_like(image, 255) if split == "train" else image, mask)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return open_pack(pack_dataset(Blocks(), ArtifactStore(tmp_path_factory.mktemp("blocks"))).path)


def scores(share: float = 0.2) -> Scores:
    """Of five classes, the first of which has this share of the predictions."""
    confusion = torch.full((5, 5), 100)
    confusion[:, 0] = int(2000 * share / (1 - share) / 5)
    return Scores(confusion)


def config(rate: float = 1e-3) -> TrialConfig:
    return TrialConfig(recipe=Supervised(optimizer=AdamW(learning_rate=rate)))


def config_of(num_epochs: int) -> TrialConfig:
    return config().replace(num_epochs=num_epochs)


def ahead(num_pixels: int) -> Scores:
    """Of a student that predicts class 0, but for some pixels of class 1 that it gets right.

    Of five classes of 1000 pixels; predicting one everywhere has a mIoU of 0.04.
    """
    confusion = torch.zeros(5, 5, dtype=torch.int64)
    confusion[:, 0] = 1000
    confusion[1, :2] = torch.tensor([1000 - num_pixels, num_pixels])
    return Scores(confusion)


def losses(*values: float) -> list[dict[str, float]]:
    return [{"cross_entropy": value} for value in values]


CAUSES: dict[str, tuple[list[dict[str, float]], float, float, str]] = {
    "rising": (losses(1.6, 2.0), 1e-3, 0.2, "from 1.600 to 2.000: learning rate 0.001 too high"),
    "flat at a high rate": (losses(1.6, 1.6), 0.1, 0.2, "learning rate 0.1 too high"),
    "flat at a low rate": (losses(1.6, 1.6), 1e-7, 0.2, "learning rate 1e-07 too low, or labels"),
    "rising a little": (
        losses(1.6, 1.7),
        1e-3,
        0.2,
        "from 1.600 to 1.700: learning rate 0.001 too low",
    ),
    "hardly falling": (
        losses(1.6, 1.55),
        1e-2,
        0.2,
        "from 1.600 to 1.550: learning rate 0.01 too low",
    ),
    "up and down": (
        losses(1.6, 2.9, 1.4),
        0.1,
        0.2,
        "only fell from 1.600 to 1.400: too few steps",
    ),
    "nearly one class": (losses(1.6, 0.9), 1e-3, 0.94, "only fell from 1.600 to 0.900"),
    "one class": (losses(1.6, 0.9), 1e-3, 0.97, "97% of its pixels are class 0: too few steps"),
    "falling": (losses(1.6, 0.9), 1e-3, 0.2, "only fell from 1.600 to 0.900: too few steps"),
    "learned by heart": (losses(1.6, 0.01), 1e-3, 0.2, "fell to 0.010 in training: validation"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_a_cause_is_named(case: str, blocks: PackedDataset) -> None:
    history, rate, share, words = CAUSES[case]
    assert words in likely_cause(scores(share), history, config(rate), blocks)


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ([{"dice": 0.9}, {"dice": 0.9}], "loss dice went from 0.900 to 0.900"),
        ([{"dice": 0.9}, {"dice": 0.01}], "loss dice only fell from 0.900 to 0.010"),
        ([{"a": 1.0, "b": 2.0}, {"b": 1.0}], "loss b only fell from 2.000 to 1.000"),
        ([{"a": 1.0, "b": 2.0}, {"c": 1.0}], "the total loss only fell from 3.000 to 1.000"),
        ([{"a": 1.0, "cross_entropy": 2.0}, {"cross_entropy": 1.0, "a": 1.0}], "cross-entropy"),
    ],
)
def test_a_recipe_without_cross_entropy_is_judged_by_a_loss_that_is_named(
    history: list[dict[str, float]], words: str, blocks: PackedDataset
) -> None:
    assert likely_cause(scores(), history, config(), blocks).startswith(words)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (OneClass(), "there is one labelled class in the validation split"),
        (White(), "all images are equal in the training split"),
    ],
)
def test_a_fault_of_the_data_comes_first(source: Blocks, words: str, tmp_path: Path) -> None:
    data = open_pack(pack_dataset(source, ArtifactStore(tmp_path)).path)
    assert likely_cause(scores(), losses(1.6, 0.01), config(), data) == words


def test_the_commonest_class_has_the_miou_of_a_student_that_predicts_it(
    blocks: PackedDataset,
) -> None:
    masks = np.concatenate(blocks.val.chunks["mask"])
    counts = np.bincount(masks[masks != 255], minlength=5)
    assert commonest_miou(blocks) == pytest.approx(counts.max() / counts.sum() / 5)


def test_a_loss_that_is_not_finite_is_named() -> None:
    with pytest.raises(TrialFailed, match="not finite: loss cross_entropy is nan in epoch 3"):
        check_finite({"cross_entropy": math.nan}, 3, config())


def test_what_is_only_calibrated_has_no_rate_to_blame(blocks: PackedDataset) -> None:
    ptq = TrialConfig(recipe=Ptq(), num_epochs=1)
    cause = "calibration alone does not suit so few bits"
    assert likely_cause(scores(), losses(1.6), ptq, blocks) == cause
    with pytest.raises(TrialFailed, match=f"is inf in epoch 1; {cause}"):
        check_finite({"cross_entropy": math.inf}, 1, ptq)


def test_the_rate_of_the_network_that_diverged_is_named() -> None:
    recipe = QatDistill(optimizer=AdamW(learning_rate=0.5), teacher_learning_rate=0.25)
    for loss, rate in (("pixelwise", 0.5), ("teacher", 0.25)):
        with pytest.raises(TrialFailed, match=f"loss {loss} is nan .* rate {rate} is likely"):
            check_finite({loss: math.nan}, 1, TrialConfig(recipe=recipe))


@pytest.mark.parametrize(
    ("num_epochs", "num_steps", "grace"),
    [
        (60, 6000, 15),
        (30, 3000, 8),
        (8, 8000, 3),
        (2, 2000, 2),
        (20, 400, 10),
        (20, 600, 7),
        (16, 512, 7),
        (20, 120, 20),
        (1, 1, 1),
    ],
)
def test_grace_is_a_quarter_but_three_epochs_and_200_steps_at_least(
    num_epochs: int, num_steps: int, grace: int
) -> None:
    assert grace_epochs(config_of(num_epochs), num_steps) == grace


def is_refused(best_miou: float, last: Scores, epoch: int, data: PackedDataset) -> bool:
    """Whether a student of eight epochs, judged from the third on, is given up after `epoch`."""
    history = losses(*np.linspace(1.6, 0.9, epoch))
    try:
        check_learning(best_miou, last, history, config_of(8), 8000, data)
    except TrialFailed:
        return True
    return False


def test_a_student_that_does_not_learn_is_told_what_predicting_one_class_gives(
    blocks: PackedDataset,
) -> None:
    words = (
        "not learning: mIoU 0.044 after epoch 3, predicting the commonest class alone gives "
        "0.040; 100% of its pixels are class 0"
    )
    with pytest.raises(TrialFailed, match=words):
        check_learning(0.0, ahead(20), losses(1.6, 1.2, 0.9), config_of(8), 8000, blocks)


def test_a_margin_over_the_commonest_class_counts_as_learning(blocks: PackedDataset) -> None:
    assert ahead(0).miou == pytest.approx(0.04)
    assert ahead(20).miou == pytest.approx(0.044, abs=3e-4)
    assert ahead(29).miou == pytest.approx(0.046, abs=3e-4)
    for epoch in (3, 8):
        for num_pixels, refused in ((0, True), (20, True), (29, False)):
            last = ahead(num_pixels)
            assert is_refused(last.miou, last, epoch, blocks) == refused


def test_nothing_is_refused_within_the_grace_period(blocks: PackedDataset) -> None:
    assert [is_refused(0.04, ahead(0), epoch, blocks) for epoch in (1, 2, 3)] == [
        False,
        False,
        True,
    ]


def test_the_best_epoch_counts_until_the_last_which_counts_alone(blocks: PackedDataset) -> None:
    refused = [is_refused(0.5, ahead(0), epoch, blocks) for epoch in (3, 7, 8)]
    assert refused == [False, False, True]


def test_a_network_that_is_worse_than_the_commonest_class_was_trained_otherwise(
    blocks: PackedDataset,
) -> None:
    original = TrialConfig.model_construct(recipe=Original())
    assert "normalisation (--pretrained-normalization)" in likely_cause(
        scores(), losses(1.6), original, blocks
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 2])
def test_the_narrowest_student_of_the_built_in_images_is_not_given_up(
    seed: int, tmp_path: Path
) -> None:
    """After 128 steps it predicts hardly more than the commonest class, which has 0.101 mIoU."""
    store = ArtifactStore(tmp_path)
    data = pack_dataset(ShapesSource(48, num_train=256, num_val=96), store)
    config = TrialConfig(
        student=UNetConfig(width=4),
        recipe=Supervised(),
        label_loss=LabelLossConfig(class_weights="sqrt"),
        augmentation=Augmentation(min_scale=1, max_scale=1, color=0),
        num_epochs=16,
        seed=seed,
    )
    num_checked = grace_epochs(config, num_steps=16 * 256 // 8)
    trial = Trial(config, ExecutionConfig(data=data.path, artifacts=store.root))
    mious = [metrics.miou for metrics in islice(trial, num_checked)]
    assert len(mious) == num_checked < 16
    assert mious[3] < 0.11 < 0.15 < mious[-1]
