"""Class weights, and the losses on labels beside cross-entropy, against naive twins."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from factories import ShortTask
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from trainables.config import ExecutionConfig, TrialConfig
from trainables.data.label_counts import LabelCounts
from trainables.data.packed import open_pack
from trainables.losses.class_weights import LARGEST, compute_class_weights
from trainables.losses.configs import Balance, LabelLossConfig, Overlap
from trainables.losses.cross_entropy import cross_entropy
from trainables.losses.dice import dice
from trainables.losses.lovasz import lovasz_softmax
from trainables.recipes.configs import Distill, Qat, QatDistill, Recipe, Supervised
from trainables.recipes.optimization import OptimizerLoop

BALANCES: tuple[Balance, ...] = ("sqrt", "enet", "median")
counts = st.lists(st.integers(0, 10**6), min_size=2, max_size=8).filter(lambda n: sum(n) > 0)


@given(counts, st.sampled_from(BALANCES))
def test_the_mean_weight_of_a_pixel_is_1_and_absent_classes_have_none(
    pixels: list[int], balance: Balance
) -> None:
    of_images = [2 * count for count in pixels]
    weights = compute_class_weights(
        LabelCounts(pixels=tuple(pixels), pixels_of_images=tuple(of_images)), balance
    ).double()
    count = torch.tensor(pixels, dtype=torch.float64)
    assert float((weights * count).sum() / count.sum()) == pytest.approx(1, rel=1e-5)
    assert torch.equal(weights == 0, count == 0)
    present = weights[count > 0]
    assert float(present.max() / present.quantile(0.5)) <= LARGEST * (1 + 1e-5)
    if balance != "median":  # rarer classes never get less
        order = count[count > 0].argsort(descending=True)
        assert all(a <= b * (1 + 1e-6) for a, b in pairwise(present[order].tolist()))


def test_weights_follow_the_papers() -> None:
    counted = LabelCounts(pixels=(900, 90, 10), pixels_of_images=(1000, 300, 200))
    expected = {
        "sqrt": [1 / math.sqrt(0.9), 1 / math.sqrt(0.09), 1 / math.sqrt(0.01)],
        "enet": [1 / math.log(1.92), 1 / math.log(1.11), 1 / math.log(1.03)],
        "median": [0.3 / 0.9, 1.0, 4.0],  # 0.3 / 0.05 = 6 is clipped
    }
    for balance in BALANCES:
        ratios = compute_class_weights(counted, balance)
        wanted = torch.tensor(expected[balance])
        torch.testing.assert_close(ratios / ratios[1], wanted / wanted[1])


def test_a_pack_holds_the_counts_of_its_training_labels(blocks_run: ExecutionConfig) -> None:
    data = open_pack(blocks_run.data)
    chunks = data.train.chunks["mask"]
    masks = torch.stack([torch.tensor(mask) for chunk in chunks for mask in chunk])
    found = data.label_counts()
    for index in range(data.num_classes):
        is_class = masks == index
        holds = is_class.flatten(1).any(1)
        assert found.pixels[index] == is_class.sum()
        assert found.pixels_of_images[index] == (masks[holds] != 255).sum()
    assert data.kept_label_counts == found


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Logits (2,4,5,6) and labels, some ignored, without the last class."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator, requires_grad=True)
    labels = torch.randint(0, 3, (2, 5, 6), generator=generator)
    labels[0, 0] = 255
    return logits, labels


def test_weighted_cross_entropy_is_the_mean_of_weighted_pixels(
    batch: tuple[Tensor, Tensor],
) -> None:
    logits, labels = batch
    weights = torch.tensor([0.5, 2.0, 3.0, 0.0])
    by_pixel = -logits.log_softmax(1)
    wanted = [
        weights[label] * by_pixel[n, label, y, x]
        for n, image in enumerate(labels.tolist())
        for y, row in enumerate(image)
        for x, label in enumerate(row)
        if label != 255
    ]
    torch.testing.assert_close(cross_entropy(logits, labels, weights), torch.stack(wanted).mean())


def test_lovasz_is_the_interpolation_of_the_jaccard_loss_at_sorted_errors(
    batch: tuple[Tensor, Tensor],
) -> None:
    logits, labels = batch
    probabilities = logits.softmax(1).movedim(1, -1)[labels != 255]
    flat = labels[labels != 255]

    def jaccard_loss(wrong: set[int], index: int) -> float:
        """1 - IoU of a class when the pixels in `wrong` are mispredicted, the others not."""
        truth = {i for i, label in enumerate(flat.tolist()) if label == index}
        predicted = truth ^ wrong
        return 1 - len(truth & predicted) / len(truth | predicted)

    total = torch.zeros(())
    for index in range(3):  # the last class is absent
        errors = ((flat == index).float() - probabilities[:, index]).abs()
        order = errors.argsort(descending=True).tolist()
        for rank, pixel in enumerate(order):
            growth = jaccard_loss(set(order[: rank + 1]), index) - jaccard_loss(
                set(order[:rank]), index
            )
            total = total + errors[pixel] * growth
    torch.testing.assert_close(lovasz_softmax(logits, labels), total / 3)


def test_dice_is_that_of_each_class_that_is_present(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    probabilities = logits.softmax(1).movedim(1, -1)[labels != 255]
    flat = labels[labels != 255]
    losses = []
    for index in range(3):
        p, t = probabilities[:, index], (flat == index).float()
        losses.append(1 - 2 * (p * t).sum() / ((p * p).sum() + (t * t).sum()))
    torch.testing.assert_close(dice(logits, labels), torch.stack(losses).mean())


@pytest.mark.parametrize("loss", [lovasz_softmax, dice])
def test_overlap_losses_are_0_for_perfect_and_for_no_labels(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    labels = torch.randint(0, 3, (2, 5, 6))
    perfect = 1e4 * F.one_hot(labels, 4).movedim(-1, 1).float()
    assert float(loss(perfect, labels)) == pytest.approx(0, abs=1e-5)
    logits = perfect.clone().requires_grad_()
    nothing = loss(logits, torch.full_like(labels, 255))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    "recipe", [Supervised(), Distill(), Qat(), QatDistill(self_study=0)], ids=lambda r: r.name
)
@pytest.mark.parametrize("overlap", ["none", "lovasz", "dice"])
def test_every_recipe_trains_on_all_that_it_reports(
    recipe: Recipe,
    overlap: Overlap,
    blocks_run: ExecutionConfig,
    teacher_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = ShortTask(recipe, blocks_run.replace(teacher=teacher_file))
    loss = LabelLossConfig(class_weights="sqrt", overlap=overlap, overlap_weight=0.5)
    task.label_loss = loss.build(task.data.label_counts, task.device)
    assert task.label_loss.weights is not None
    trained: list[float] = []
    backward = OptimizerLoop.backward

    def recording_backward(loop: OptimizerLoop, loss: Tensor) -> None:
        trained.append(float(loss.detach()))
        backward(loop, loss)

    monkeypatch.setattr(OptimizerLoop, "backward", recording_backward)
    epoch = next(iter(recipe.train(task)))
    expected = {"cross_entropy"} | ({overlap} if overlap != "none" else set())
    assert expected <= set(epoch.losses)
    assert sum(epoch.losses.values()) == pytest.approx(sum(trained) / len(trained), rel=1e-5)


def test_a_configuration_without_these_options_keeps_its_digest() -> None:
    config = TrialConfig(recipe=Supervised())
    assert "label_loss" not in config.model_dump(mode="json")
    assert "ema_decay" not in config.model_dump(mode="json")
    balanced = config.replace(label_loss=LabelLossConfig(class_weights="sqrt"), ema_decay=0.99)
    assert TrialConfig.model_validate_json(balanced.model_dump_json()) == balanced
    assert balanced.flatten()["label_loss.class_weights"] == "sqrt"
