"""Learned weights of losses."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.config import ExecutionConfig, TrialConfig
from trainables.losses.configs import Channelwise, Pixelwise, by_name
from trainables.losses.uncertainty_weights import UncertaintyWeights
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import AdamW, Distill, QatDistill, Recipe, Supervised
from trainables.training.trial import Trial

FAST = AdamW(learning_rate=3e-2)
values = st.lists(st.floats(1e-3, 100), min_size=1, max_size=4)


@given(values, st.integers(0, 1000))
def test_they_equal_a_naive_loop(losses: list[float], seed: int) -> None:
    weights = UncertaintyWeights(len(losses))
    factors = [2.0**index for index in range(len(losses))]
    torch.testing.assert_close(
        weights(map(torch.tensor, losses), factors), [torch.tensor(x) for x in losses]
    )
    generator = torch.Generator().manual_seed(seed)
    weights.places.data = torch.randn(len(losses), generator=generator)
    sigmas = [1 / math.sqrt(weight) for weight in weights.weights.tolist()]
    expected = [
        loss / s**2 + factor * math.log(s)
        for loss, s, factor in zip(losses, sigmas, factors, strict=True)
    ]
    found = [loss.item() for loss in weights(map(torch.tensor, losses), factors)]
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_a_loss_of_a_constant_size_ends_with_the_weight_of_its_optimum(factor: float) -> None:
    losses = [0.01, 0.25, 1.0, 4.0, 100.0]
    weights = UncertaintyWeights(len(losses))
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.1)
    for _ in range(500):
        optimizer.zero_grad()
        multiplied = [torch.tensor(factor * loss) for loss in losses]
        torch.stack(weights(multiplied, [factor] * len(losses))).sum().backward()
        optimizer.step()
    expected = [min(3, max(0.1, 1 / (2 * loss))) for loss in losses]
    assert weights.weights.tolist() == pytest.approx(expected, rel=0.03)
    assert (weights.weights > 0.1 - 1e-6).all()
    assert (weights.weights < 3 + 1e-6).all()


@pytest.mark.parametrize(
    "recipe",
    [
        Distill(optimizer=FAST),
        pytest.param(
            QatDistill(
                start=Supervised(optimizer=FAST), start_epochs=2, optimizer=FAST, self_study=0
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda recipe: recipe.name,
)
def test_they_are_trained_with_the_student_and_go_on_from_a_checkpoint(
    recipe: Recipe, blocks_run: ExecutionConfig, teacher_file: Path, tmp_path: Path
) -> None:
    terms = by_name(Pixelwise(), Channelwise(weight=0.5))

    def config(term_weights: str) -> TrialConfig:
        return TrialConfig(
            student=UNetConfig(width=3, depth=2),
            recipe=recipe.replace(losses=terms, term_weights=term_weights),
            num_epochs=3,
        )

    run = blocks_run.replace(teacher=teacher_file, checkpoint_every_s=0)
    fixed, whole = (
        [metrics.losses for metrics in Trial(config(weights), run)]
        for weights in ("fixed", "learned")
    )
    assert fixed != whole
    assert set(fixed[-1]) == set(whole[-1]) == {"cross_entropy", "pixelwise", "channelwise"}
    cut_off = iter(Trial(config("learned"), run, tmp_path))
    next(cut_off), next(cut_off)
    del cut_off
    rest = [metrics.losses for metrics in Trial(config("learned"), run, tmp_path)]
    assert rest == whole[-len(rest) :]


@pytest.mark.parametrize("recipe", [Distill(), QatDistill()], ids=lambda recipe: recipe.name)
def test_a_recipe_of_fixed_weights_is_written_as_before(recipe: Recipe) -> None:
    assert "term_weights" not in recipe.model_dump(mode="json")
    learned = recipe.replace(term_weights="learned")
    assert learned.flatten()["term_weights"] == "learned"
    assert type(recipe).model_validate_json(learned.model_dump_json()) == learned
