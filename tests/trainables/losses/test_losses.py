"""Losses against naive loops, and the contract that every term keeps."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from trainables.losses import DistillationTerm
from trainables.losses.cross_entropy import cross_entropy
from trainables.losses.pairwise import pairwise_loss
from trainables.losses.pixelwise import pixelwise_loss
from trainables.models.outputs import Outputs

TERMS = get_args(DistillationTerm)


def outputs(seed: int, channels: int = 6, size: int = 4) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, 8, 8, generator=generator, requires_grad=True)
    features = torch.randn(2, channels, size, size, generator=generator, requires_grad=True)
    return Outputs(logits, features)


def labels() -> Tensor:
    values = torch.randint(0, 5, (2, 8, 8), generator=torch.Generator().manual_seed(9))
    values[:, :3] = 255
    return values


def softmax(values: list[float], temperature: float) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in values]
    return [value / sum(exponentials) for value in exponentials]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_pixelwise_equals_a_naive_loop(temperature: float) -> None:
    student, teacher, target = outputs(0).logits, outputs(1).logits, labels()
    divergences = []
    for b, y, x in (target != 255).nonzero().tolist():
        p = softmax(teacher[b, :, y, x].tolist(), temperature)
        q = softmax(student[b, :, y, x].tolist(), temperature)
        divergences.append(sum(a * math.log(a / c) for a, c in zip(p, q, strict=True)))
    expected = temperature**2 * sum(divergences) / len(divergences)
    assert pixelwise_loss(student, teacher, target, temperature).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_pairwise_equals_a_naive_loop() -> None:
    student, teacher = outputs(0).features, outputs(1, channels=3).features

    def nodes(features: Tensor, sample: int) -> list[Tensor]:
        return [
            features[sample, :, y : y + 2, x : x + 2].mean((1, 2)) for y in (0, 2) for x in (0, 2)
        ]

    squares = []
    for sample in range(2):
        ours, theirs = nodes(student, sample), nodes(teacher, sample)
        for i in range(4):
            for j in range(4):
                a = torch.cosine_similarity(ours[i], ours[j], dim=0)
                b = torch.cosine_similarity(theirs[i], theirs[j], dim=0)
                squares.append((a - b).item() ** 2)
    expected = sum(squares) / len(squares)
    assert pairwise_loss(student, teacher, patch=2).item() == pytest.approx(expected, rel=1e-4)


def test_pairwise_takes_maps_of_different_resolution() -> None:
    loss = pairwise_loss(outputs(0, size=4).features, outputs(1, size=7).features, patch=1)
    assert loss.isfinite()


def test_cross_entropy_equals_a_naive_loop() -> None:
    logits, target = outputs(0).logits, labels()
    values = [
        -math.log(softmax(logits[b, :, y, x].tolist(), 1.0)[int(target[b, y, x])])
        for b, y, x in (target != 255).nonzero().tolist()
    ]
    assert cross_entropy(logits, target).item() == pytest.approx(
        sum(values) / len(values), rel=1e-5
    )


def test_a_batch_without_labels_costs_nothing() -> None:
    nothing = torch.full((2, 8, 8), 255)
    student, teacher = outputs(0), outputs(1)
    assert cross_entropy(student.logits, nothing).item() == 0
    assert pixelwise_loss(student.logits, teacher.logits, nothing, 2.0).item() == 0


def test_terms_are_found() -> None:
    assert len(TERMS) >= 2


@pytest.mark.parametrize("term", TERMS)
def test_term_is_finite_and_binds_the_student_alone(term: type[DistillationTerm]) -> None:
    student, teacher = outputs(0), outputs(1)
    loss = term()(student, teacher, labels())
    loss.backward()
    assert loss.isfinite()
    assert loss > 0
    assert teacher.logits.grad is None
    assert teacher.features.grad is None
    assert any(part.grad is not None and part.grad.abs().sum() > 0 for part in student)


@pytest.mark.parametrize("term", TERMS)
def test_term_ignores_ignored_pixels(term: type[DistillationTerm]) -> None:
    student, teacher = outputs(0), outputs(1)
    disturbed = student.logits.detach().clone()
    disturbed[:, :, :3] += 100 * torch.randn(2, 5, 3, 8)
    before = term()(student, teacher, labels())
    after = term()(Outputs(disturbed, student.features), teacher, labels())
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("term", TERMS)
def test_term_vanishes_for_a_student_equal_to_its_teacher(term: type[DistillationTerm]) -> None:
    assert term()(outputs(0), outputs(0), labels()).item() == pytest.approx(0, abs=1e-6)
