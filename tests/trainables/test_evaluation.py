"""mIoU against a naive count."""

import pytest
import torch

from trainables.evaluation import Scores, confusion_matrix


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
        right += hit
        total += occurs
    assert len(ious) == 4
    assert scores.miou == pytest.approx(sum(ious) / 4)
    assert scores.pixel_accuracy == pytest.approx(right / total)


def test_majority_is_the_commonest_label_everywhere() -> None:
    scores = Scores(torch.tensor([[6, 2], [1, 1]]))
    assert scores.majority().miou == pytest.approx((8 / 10 + 0) / 2)
    assert scores.commonest_prediction == (0, pytest.approx(0.7))
