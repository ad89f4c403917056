"""Which pixels pixel-wise distillation counts, how much, and what a wrong teacher then does."""

import math
from pathlib import Path

import pytest
import torch
from factories import ShortTask
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainables.config import ExecutionConfig
from trainables.losses.configs import LabelLossConfig, Pixelwise, Where, by_name
from trainables.losses.cross_entropy import cross_entropy
from trainables.losses.pixelwise import pixelwise_loss
from trainables.recipes.configs import Distill, QatDistill, Recipe

NUM_CLASSES = 4


def logits(seed: int) -> Tensor:
    return 3 * torch.randn(2, NUM_CLASSES, 5, 6, generator=torch.Generator().manual_seed(seed))


def labels(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, NUM_CLASSES, (2, 5, 6), generator=generator)
    return values.masked_fill(torch.rand(2, 5, 6, generator=generator) < 0.2, 255)


def naive(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    temperature: float,
    where: Where,
    weights: Tensor,
) -> float:
    """The mean over labelled pixels, one pixel after the other."""
    total, count = 0.0, 0
    for b, y, x in (target != 255).nonzero().tolist():
        count += 1
        label = int(target[b, y, x])
        values = teacher[b, :, y, x].tolist()
        if where == "teacher_right" and values.index(max(values)) != label:
            continue
        p = (teacher[b, :, y, x].double() / temperature).softmax(0).tolist()
        q = (student[b, :, y, x].double() / temperature).softmax(0).tolist()
        divergence = sum(a * math.log(a / c) for a, c in zip(p, q, strict=True))
        total += float(weights[label]) * divergence
    return temperature**2 * total / max(count, 1)


@given(
    st.integers(0, 1000),
    st.sampled_from([1.0, 2.0, 4.0]),
    st.sampled_from(["all", "teacher_right"]),
    st.lists(st.floats(0, 4), min_size=NUM_CLASSES, max_size=NUM_CLASSES),
)
def test_it_equals_a_naive_loop(
    seed: int, temperature: float, where: Where, weights: list[float]
) -> None:
    student, teacher, target = logits(seed), logits(seed + 1), labels(seed)
    expected = naive(student, teacher, target, temperature, where, torch.tensor(weights))
    found = pixelwise_loss(student, teacher, target, temperature, where, torch.tensor(weights))
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_pixel_counts_as_its_cross_entropy_does() -> None:
    target, weights = labels(0), torch.tensor([0.5, 2.0, 3.0, 0.0])
    certain = 1e3 * torch.nn.functional.one_hot(target % 255, NUM_CLASSES).movedim(-1, 1).float()
    student = logits(0)
    for where in ("all", "teacher_right"):
        torch.testing.assert_close(
            pixelwise_loss(student, certain, target, 1.0, where, weights),
            cross_entropy(student, target, weights),
        )


def test_weights_of_1_and_a_teacher_that_is_always_right_change_nothing() -> None:
    student, teacher = logits(0), logits(1)
    plain = pixelwise_loss(student, teacher, teacher.argmax(1), 2.0)
    torch.testing.assert_close(
        pixelwise_loss(student, teacher, teacher.argmax(1), 2.0, "teacher_right"), plain
    )
    torch.testing.assert_close(
        pixelwise_loss(student, teacher, teacher.argmax(1), 2.0, "all", torch.ones(4)), plain
    )


def optimum(teacher: Tensor, target: Tensor, term: Pixelwise) -> Tensor:
    """The label's probability at each pixel where cross-entropy and the term are least together."""
    student = torch.zeros(teacher.shape, requires_grad=True)
    optimizer = torch.optim.LBFGS([student], max_iter=200, line_search_fn="strong_wolfe")

    def step() -> float:
        optimizer.zero_grad()
        loss = cross_entropy(student, target) + term.weight * pixelwise_loss(
            student, teacher, target, term.temperature, term.where
        )
        loss.backward()
        return loss.item()

    optimizer.step(step)
    return student.detach().softmax(1).gather(1, target[:, None])[0, 0, 0]


@pytest.mark.parametrize(("weight", "temperature"), [(10.0, 1.0), (1.0, 1.0), (1.0, 2.0)])
def test_a_teacher_that_is_wrong_about_a_class_no_longer_lowers_its_probability(
    weight: float, temperature: float
) -> None:
    wrong, right = [5.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]  # the label of both pixels is 1
    teacher = torch.tensor([wrong, right]).T[None, :, None]
    target = torch.ones(1, 1, 2, dtype=torch.long)
    term = Pixelwise(weight=weight, temperature=temperature)
    of_all = optimum(teacher, target, term)
    of_right = optimum(teacher, target, term.replace(where="teacher_right"))
    alone = optimum(teacher, target, term.replace(weight=0.0))
    if temperature == 1:  # the optimum is then the weighted mean of the label and the teacher
        mean = (1 + weight * teacher.softmax(1)[0, 1, 0]) / (1 + weight)
        torch.testing.assert_close(of_all, mean, atol=0.01, rtol=0)
    assert of_all[0] < 0.65
    assert of_right[0] > 0.99
    torch.testing.assert_close(of_right[0], alone[0], atol=0.01, rtol=0)
    torch.testing.assert_close(of_right[1], of_all[1], atol=0.01, rtol=0)


@pytest.mark.parametrize(
    "recipe", [Distill(), QatDistill(self_study=0, co_study=0.5)], ids=lambda recipe: recipe.name
)
def test_recipes_hand_the_class_weights_of_the_label_loss_to_the_term(
    recipe: Recipe, blocks_run: ExecutionConfig, teacher_file: Path
) -> None:
    def loss(class_weighted: bool) -> float:
        term = Pixelwise(class_weighted=class_weighted)
        taught = recipe.replace(losses=by_name(term))
        task = ShortTask(taught, blocks_run.replace(teacher=teacher_file), batch_size=32)
        task.label_loss = LabelLossConfig(class_weights="sqrt").build(
            task.data.label_counts, task.device
        )
        assert task.label_loss.weights is not None
        task.label_loss.weights = 3 * torch.ones_like(task.label_loss.weights)
        return next(iter(taught.train(task))).losses["pixelwise"]

    assert loss(True) == pytest.approx(3 * loss(False), rel=1e-3)


def test_a_configuration_without_these_options_is_written_as_before() -> None:
    plain = Pixelwise(temperature=3)
    assert plain.model_dump(mode="json") == {"name": "pixelwise", "weight": 1.0, "temperature": 3.0}
    recipe = Distill(losses=by_name(plain.replace(where="teacher_right", class_weighted=True)))
    assert recipe.flatten()["losses.pixelwise.where"] == "teacher_right"
    assert Distill.model_validate_json(recipe.model_dump_json()) == recipe
    assert recipe.digest() != Distill(losses=by_name(plain)).digest()
