"""Why a student does not learn, in words."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Blocks

from trainables.artifacts import ArtifactStore
from trainables.config import TrialConfig
from trainables.data.pack import PackedData, open_pack, pack
from trainables.data.source import Sample, Split
from trainables.errors import TrialFailed
from trainables.evaluation import Scores, commonest_miou
from trainables.gates import check_finite, likely_cause
from trainables.recipes import Supervised
from trainables.recipes.optimization import AdamW


class OneClass(Blocks):
    """Whose validation masks hold one class."""

    def digest(self) -> str:
        return "one class"

    def sample(self, split: Split, index: int) -> Sample:
        image, mask = super().sample(split, index)
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
        image, mask = super().sample(split, index)
        return Sample(np.full_like(image, 255) if split == "train" else image, mask)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> PackedData:
    return open_pack(pack(Blocks(), ArtifactStore(tmp_path_factory.mktemp("blocks"))).path)


def scores(share: float = 0.2) -> Scores:
    """Of five classes, the first of which has this share of the predictions."""
    confusion = torch.full((5, 5), 100)
    confusion[:, 0] = int(2000 * share / (1 - share) / 5)
    return Scores(confusion)


def config(rate: float = 1e-3) -> TrialConfig:
    return TrialConfig(recipe=Supervised(optimizer=AdamW(learning_rate=rate)))


def losses(*values: float) -> list[dict[str, float]]:
    return [{"cross_entropy": value} for value in values]


CAUSES: dict[str, tuple[list[dict[str, float]], float, float, str]] = {
    "rising": (losses(1.6, 2.0), 1e-3, 0.2, "from 1.600 to 2.000: learning rate 0.001 too high"),
    "flat at a high rate": (losses(1.6, 1.6), 0.1, 0.2, "learning rate 0.1 too high"),
    "flat at a low rate": (losses(1.6, 1.6), 1e-7, 0.2, "learning rate 1e-07 too low, or labels"),
    "one class": (losses(1.6, 0.9), 1e-3, 0.97, "97% of its pixels are class 0: too few steps"),
    "falling": (losses(1.6, 0.9), 1e-3, 0.2, "only fell from 1.600 to 0.900: too few steps"),
    "learned by heart": (losses(1.6, 0.01), 1e-3, 0.2, "fell to 0.010 in training: validation"),
}


@pytest.mark.parametrize("case", CAUSES)
def test_a_cause_is_named(case: str, blocks: PackedData) -> None:
    history, rate, share, words = CAUSES[case]
    assert words in likely_cause(scores(share), history, config(rate), blocks)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (OneClass(), "there is one labelled class in the validation split"),
        (White(), "all images are equal in the training split"),
    ],
)
def test_a_fault_of_the_data_comes_first(source: Blocks, words: str, tmp_path: Path) -> None:
    data = open_pack(pack(source, ArtifactStore(tmp_path)).path)
    assert likely_cause(scores(), losses(1.6, 0.01), config(), data) == words


def test_the_commonest_class_has_the_miou_of_a_student_that_predicts_it(
    blocks: PackedData,
) -> None:
    masks = np.concatenate(blocks.val.chunks["mask"])
    counts = np.bincount(masks[masks != 255], minlength=5)
    assert commonest_miou(blocks) == pytest.approx(counts.max() / counts.sum() / 5)


def test_a_loss_that_is_not_finite_is_named() -> None:
    with pytest.raises(TrialFailed, match="not finite: loss cross_entropy is nan in epoch 3"):
        check_finite({"cross_entropy": math.nan}, 3, config())
