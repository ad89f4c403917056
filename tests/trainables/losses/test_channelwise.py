"""Channel-wise distillation against a naive loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trainables.losses.channelwise import ChannelwiseFeaturesLoss, ChannelwiseLoss, channelwise_loss
from trainables.losses.configs import ChannelwiseFeatures
from trainables.models.base import Outputs


def maps(seed: int, channels: int = 3, height: int = 4, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(2, channels, height, width, generator=generator)


def naive(student: Tensor, teacher: Tensor, temperature: float, counts: Tensor) -> float:
    """The mean over the maps, one after the other, of the divergence over the pixels that count."""
    total = 0.0
    for b in range(student.shape[0]):
        for c in range(student.shape[1]):
            p = (teacher[b, c][counts[b]].double() / temperature).softmax(0).tolist()
            q = (student[b, c][counts[b]].double() / temperature).softmax(0).tolist()
            total += sum(a * math.log(a / e) for a, e in zip(p, q, strict=True))
    return temperature**2 * total / (student.shape[0] * student.shape[1])


@given(st.integers(0, 1000), st.sampled_from([1.0, 4.0]), st.floats(0, 1))
def test_it_equals_a_naive_loop(seed: int, temperature: float, share: float) -> None:
    student, teacher = maps(seed), maps(seed + 1)
    counts = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(seed)) < share
    expected = naive(student, teacher, temperature, counts)
    found = channelwise_loss(student, teacher, temperature, counts)
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    everywhere = torch.ones_like(counts)
    torch.testing.assert_close(
        channelwise_loss(student, teacher, temperature),
        channelwise_loss(student, teacher, temperature, everywhere),
    )


def test_a_constant_added_to_a_map_changes_nothing() -> None:
    student, teacher = maps(0), maps(1)
    offset = torch.tensor([1.0, -20.0, 300.0])[:, None, None]
    torch.testing.assert_close(
        channelwise_loss(student + offset, teacher, 4.0),
        channelwise_loss(student, teacher, 4.0),
        rtol=1e-3,
        atol=1e-4,
    )


def test_labelled_pixels_of_logits_count() -> None:
    student, teacher = maps(0), maps(1)
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[:, :2] = 255
    given = [Outputs(logits, logits) for logits in (student, teacher)]
    torch.testing.assert_close(
        ChannelwiseLoss(2.0)(*given, labels),
        channelwise_loss(student[:, :, 2:], teacher[:, :, 2:], 2.0),
    )


def test_features_are_projected_and_compared_at_the_coarser_resolution() -> None:
    student, teacher = maps(0, 6, 8, 4), maps(1, 3, 4, 8)
    given = [Outputs(torch.zeros(2, 5, 8, 8), features) for features in (student, teacher)]
    term = ChannelwiseFeatures(temperature=2.0).build(*given)
    assert isinstance(term, ChannelwiseFeaturesLoss)
    assert isinstance(term.projection, nn.Conv2d)
    pooled = student.unflatten(2, (4, 2)).mean(3)
    weight = term.projection.weight[:, :, 0, 0]
    projected = torch.einsum("dc,bchw->bdhw", weight, pooled)
    coarse = teacher.unflatten(3, (4, 2)).mean(4)
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    torch.testing.assert_close(term(*given, labels), channelwise_loss(projected, coarse, 2.0))
