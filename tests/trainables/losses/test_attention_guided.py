"""Attention-guided feature distillation against a naive loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trainables.losses.attention_guided import AttentionGuidedLoss, refine, refined_distance
from trainables.models.base import Outputs


def maps(seed: int, channels: int, height: int = 4, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, height, width, generator=generator)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def naive_refine(features: Tensor) -> list[list[float]]:
    """Of one image (C,h,w): by channel, the values of its pixels."""
    gated = []
    for channel in features.flatten(1).tolist():
        gate = sigmoid(max(channel) + sum(channel) / len(channel))
        gated.append([gate * value for value in channel])
    places = [sigmoid(max(place) + sum(place) / len(place)) for place in zip(*gated, strict=True)]
    return [[g * value for g, value in zip(places, channel, strict=True)] for channel in gated]


@given(st.integers(0, 1000))
def test_it_equals_a_naive_loop(seed: int) -> None:
    student, teacher = maps(seed, 4), maps(seed + 1, 3)
    projection = nn.Conv2d(4, 3, 1)
    weight, bias = projection.weight.tolist(), projection.bias
    assert bias is not None
    distances = []
    for ours, theirs in zip(student, teacher, strict=True):
        refined = naive_refine(ours)
        projected = [
            sum(w[0][0] * channel[i] for w, channel in zip(row, refined, strict=True)) + b
            for row, b in zip(weight, bias.tolist(), strict=True)
            for i in range(len(refined[0]))
        ]
        target = [value for channel in naive_refine(theirs) for value in channel]
        s, t = math.hypot(*projected), math.hypot(*target)
        distances.append(sum((a / s - b / t) ** 2 for a, b in zip(projected, target, strict=True)))
    found = refined_distance(student, teacher, projection)
    assert found.item() == pytest.approx(sum(distances) / 2, rel=1e-4)


@given(st.integers(0, 1000))
def test_each_image_counts_alike_and_is_scaled_to_length_1(seed: int) -> None:
    student, teacher = maps(seed, 3), maps(seed + 1, 3)
    keep = nn.Identity()
    whole = refined_distance(student, teacher, keep)
    halves = [refined_distance(student[i, None], teacher[i, None], keep) for i in range(2)]
    torch.testing.assert_close(whole, torch.stack(halves).mean())
    assert 0 <= whole <= 4
    assert refined_distance(student, student, keep) == 0
    enlarged = 5 * refine(student)
    torch.testing.assert_close(
        refined_distance(student, teacher, lambda _: enlarged),  # type: ignore[arg-type]
        whole,
    )


def test_maps_of_all_zeros_have_a_finite_gradient() -> None:
    student = torch.zeros(2, 3, 4, 5, requires_grad=True)
    loss = refined_distance(student, torch.zeros(2, 3, 4, 5), nn.Identity())
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_it_sums_over_both_maps() -> None:
    logits = torch.zeros(2, 5, 8, 8)
    student = Outputs(logits, maps(0, 4), maps(1, 2, 8, 9))
    teacher = Outputs(logits, maps(2, 3), maps(3, 2, 6, 10))
    term = AttentionGuidedLoss(student, teacher)
    assert [type(part) for part in term.projections] == [nn.Conv2d, nn.Identity]
    assert student.decoder is not None
    assert teacher.decoder is not None
    first = refined_distance(student.features, teacher.features, term.projections[0])
    second = refined_distance(student.decoder, teacher.decoder, term.projections[1])
    torch.testing.assert_close(term(student, teacher, torch.zeros(2, 8, 8).long()), first + second)
