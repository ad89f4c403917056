"""What the losses do with pixels of unlabelled images: labels skip them, the teacher does not."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from trainables.data.labels import UNLABELLED
from trainables.losses.configs import Channelwise, LabelLossConfig, Overlap, Pixelwise, Term, Where
from trainables.losses.label_loss import LabelLoss
from trainables.losses.pixelwise import pixelwise_loss
from trainables.models.base import Outputs

NUM_CLASSES = 4
TERMS = [term() for term in Term.members().values()]
OF_LOGITS = [term for term in TERMS if term.requires == "logits"]


def logits(seed: int, batch: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(batch, NUM_CLASSES, 6, 6, generator=generator)


def labels(seed: int) -> Tensor:
    """Of two labelled and two unlabelled images, each with pixels that do not count."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, NUM_CLASSES, (4, 6, 6), generator=generator)
    values[2:] = UNLABELLED
    return values.masked_fill(torch.rand(4, 6, 6, generator=generator) < 0.2, 255)


def outputs(seed: int, batch: int = 4) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, 6, 4, 4, generator=generator)
    decoder = torch.randn(batch, 6, 8, 6, generator=generator)
    return Outputs(logits(seed, batch).requires_grad_(), features, decoder)


@pytest.mark.parametrize("overlap", ["none", "lovasz", "dice"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_on_labels_is_that_of_labelled_images_alone(
    overlap: Overlap, weighted: bool
) -> None:
    weights = torch.tensor([0.5, 2.0, 3.0, 1.0]) if weighted else None
    loss = LabelLoss(LabelLossConfig(overlap=overlap), weights)
    mixed, alone = logits(0).requires_grad_(), logits(0)[:2].requires_grad_()
    found, expected = loss(mixed, labels(0)), loss(alone, labels(0)[:2])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    sum(found.values()).backward()  # type: ignore[union-attr]
    sum(expected.values()).backward()  # type: ignore[union-attr]
    assert mixed.grad is not None
    assert alone.grad is not None
    torch.testing.assert_close(mixed.grad[:2], alone.grad)
    assert mixed.grad[2:].abs().sum() == 0


def naive(student: Tensor, teacher: Tensor, target: Tensor, where: Where, weights: Tensor) -> float:
    """The mean over the pixels that are not ignored, one after the other, at temperature 2."""
    total, count = 0.0, 0
    for b, y, x in (target != 255).nonzero().tolist():
        count += 1
        values = teacher[b, :, y, x].tolist()
        taught = values.index(max(values))
        label = taught if b >= 2 else int(target[b, y, x])
        if where == "teacher_right" and taught != label:
            continue
        p = (teacher[b, :, y, x].double() / 2).softmax(0).tolist()
        q = (student[b, :, y, x].double() / 2).softmax(0).tolist()
        divergence = sum(a * math.log(a / c) for a, c in zip(p, q, strict=True))
        total += float(weights[label]) * divergence
    return 4 * total / max(count, 1)


@given(
    st.integers(0, 1000),
    st.sampled_from(["all", "teacher_right"]),
    st.lists(st.floats(0, 4), min_size=NUM_CLASSES, max_size=NUM_CLASSES),
)
def test_pixelwise_equals_a_naive_loop(seed: int, where: Where, weights: list[float]) -> None:
    student, teacher, target = logits(seed), logits(seed + 1), labels(seed)
    expected = naive(student, teacher, target, where, torch.tensor(weights))
    found = pixelwise_loss(student, teacher, target, 2.0, where, torch.tensor(weights))
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    plain = pixelwise_loss(student, teacher, target, 2.0, where)
    expected = naive(student, teacher, target, where, torch.ones(NUM_CLASSES))
    assert plain.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_channelwise_equals_a_naive_loop() -> None:
    student, teacher, target = outputs(0), outputs(1), labels(0)
    total = 0.0
    for b in range(4):
        counted = target[b] != 255
        for channel in range(NUM_CLASSES):
            p = (teacher.logits[b, channel][counted] / 4).log_softmax(0)
            q = (student.logits[b, channel][counted] / 4).log_softmax(0)
            total += F.kl_div(q, p, reduction="sum", log_target=True).item()
    loss = Channelwise(temperature=4).build(student, teacher)(student, teacher, target)
    assert loss.item() == pytest.approx(16 * total / (4 * NUM_CLASSES), rel=1e-4)


TERMS_OF_LOGITS = [
    *OF_LOGITS,
    Pixelwise(where="teacher_right"),
    Pixelwise(where="teacher_right", class_weighted=True),
]


@pytest.mark.parametrize("term", TERMS_OF_LOGITS, ids=repr)
def test_each_pixel_of_an_unlabelled_image_has_a_part_but_for_its_padding(term: Term) -> None:
    student, teacher, target = outputs(0), outputs(1), labels(0)
    weights = torch.tensor([0.5, 2.0, 3.0, 1.0])
    term.build(student, teacher, weights)(student, teacher, target).backward()
    assert student.logits.grad is not None
    is_moved = student.logits.grad.abs().sum(1) > 0
    assert torch.equal(is_moved[2:], target[2:] == UNLABELLED)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_a_term_counts_unlabelled_images_as_labelled_ones_of_which_the_teacher_is_right(
    term: Term,
) -> None:
    """Terms of features take whole images, with labels and without."""
    student, teacher, target = outputs(0), outputs(1), labels(0)
    shown = torch.where(target == UNLABELLED, teacher.logits.argmax(1), target)
    torch.manual_seed(0)
    loss = term.build(student, teacher, torch.ones(NUM_CLASSES))
    torch.testing.assert_close(
        loss(student, teacher, target), loss(student, teacher, shown), rtol=0, atol=0
    )
