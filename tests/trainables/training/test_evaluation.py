"""mIoU against a naive count, and the mode of networks that are evaluated."""

import copy

import pytest
import torch
from shared_fixtures import Blocks, pack_blocks
from torch import Tensor, nn

from trainables.data.augmentation import normalize
from trainables.data.loader import Loader
from trainables.data.packed import images_of, open_pack
from trainables.models.configs import UNetConfig
from trainables.training.evaluation import (
    Scores,
    confusion_matrix,
    count_disagreeing_pixels,
    evaluate,
)


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    run = pack_blocks(tmp_path_factory.mktemp("artifacts"), Blocks(num_train=4))
    return Loader(open_pack(run.data).val, torch.device("cpu"))


def test_confusion_matrix_and_scores_equal_a_naive_count() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (3, 9, 9), generator=generator)
    labels[:, :2] = 255
    predicted = torch.randint(0, 5, (3, 9, 9), generator=generator)
    scores = Scores(confusion_matrix(predicted, labels, 5))
    ious, right, total = [], 0, 0
    for cls in range(5):
        hit = union = occurs = 0
        for label, guess in zip(
            labels.flatten().tolist(), predicted.flatten().tolist(), strict=True
        ):
            if label == 255:
                continue
            hit += label == guess == cls
            union += cls in (label, guess)
            occurs += label == cls
        if occurs:  # class 4 does not, and is left out
            ious.append(hit / union)
        assert scores.class_iou[cls] == (pytest.approx(hit / union) if occurs else None)
        right += hit
        total += occurs
    assert len(ious) == 4
    assert scores.miou == pytest.approx(sum(ious) / 4)
    assert scores.pixel_accuracy == pytest.approx(right / total)


def test_a_class_is_never_predicted_where_labels_hold_it_and_predictions_do_not() -> None:
    confusion = torch.zeros(5, 5, dtype=torch.int64)
    confusion[0, 0] = 4
    confusion[1, 0] = 3  # held, and never predicted
    confusion[2, 3] = 2  # predicted nowhere, and 3 only where it is wrong
    confusion[3, 0] = 1
    scores = Scores(confusion)
    assert scores.class_iou == (0.5, 0.0, 0.0, 0.0, None)
    assert scores.never_predicted == (1, 2)
    assert scores.miou == 0.125


def test_majority_is_the_commonest_label_everywhere() -> None:
    scores = Scores(torch.tensor([[6, 2], [1, 1]]))
    assert scores.majority().miou == pytest.approx((8 / 10 + 0) / 2)
    assert scores.commonest_prediction == (0, pytest.approx(0.7))


@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_evaluated_in_evaluation_mode_and_left_as_it_was(
    training: bool, val: Loader
) -> None:
    torch.manual_seed(0)
    model, batches = UNetConfig(width=2, depth=1).build(5), []
    (everything,) = val.in_order(len(val))
    with torch.no_grad():
        predicted = model.eval()(normalize(images_of(everything))).argmax(1)
    before = copy.deepcopy(model.state_dict())
    scores = evaluate(model.train(training), val, 5, lambda: batches.append(1))
    assert torch.equal(scores.confusion, confusion_matrix(predicted, everything["mask"], 5))
    assert {module.training for module in model.modules()} == {training}
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert len(batches) == 2


class Striped(nn.Module):
    """Gives the first pixels of every image class 1, the others class 0."""

    def __init__(self, num_pixels: int) -> None:
        super().__init__()
        self.num_pixels = num_pixels

    def forward(self, images: Tensor) -> Tensor:
        ones = torch.zeros(len(images), 1, *images.shape[2:])
        ones.flatten(1)[:, : self.num_pixels] = 1
        return torch.cat([torch.full_like(ones, 0.5), ones], 1)


@pytest.mark.parametrize("num_pixels", [0, 3, 100])
def test_changed_pixels_are_counted_on_every_image(num_pixels: int, val: Loader) -> None:
    first, second = Striped(7), Striped(7 + num_pixels)
    assert count_disagreeing_pixels(first, second, val) == count_disagreeing_pixels(
        second, first, val
    )
    assert count_disagreeing_pixels(first, second, val) == num_pixels * len(val)


@pytest.mark.parametrize("training", [True, False])
def test_networks_are_compared_in_evaluation_mode(training: bool, val: Loader) -> None:
    torch.manual_seed(0)
    first = UNetConfig(width=2, depth=1).build(5)
    second = copy.deepcopy(first).train()
    assert count_disagreeing_pixels(first.train(training), second, val) == 0
    assert first.training is training
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
