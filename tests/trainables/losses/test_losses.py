"""Losses against naive loops, and the contract that every term keeps."""

import math
from typing import Literal

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from trainables.losses.configs import Pixelwise, Term, by_name
from trainables.losses.cross_entropy import cross_entropy
from trainables.losses.distillation import DistillationLoss
from trainables.losses.pairwise import PairwiseDecoderLoss, PairwiseLoss, pairwise_loss
from trainables.losses.pixelwise import pixelwise_loss
from trainables.models.base import Outputs
from trainables.recipes.configs import Distill

TERMS = list(Term.members().values())


def outputs(seed: int, channels: int = 6, size: int = 4) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 5, 8, 8, generator=generator, requires_grad=True)
    features = torch.randn(2, channels, size, size, generator=generator, requires_grad=True)
    decoder = torch.randn(2, channels, 2 * size, 6, generator=generator, requires_grad=True)
    return Outputs(logits, features, decoder)


def features(seed: int, channels: int, height: int, width: int) -> Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize(
    ("ours", "theirs", "patch", "nodes"),
    [
        ((4, 4), (4, 4), 2, (2, 2)),
        ((4, 4), (7, 7), 1, (4, 4)),
        ((4, 4), (7, 7), 2, (2, 2)),
        ((7, 7), (4, 4), 2, (2, 2)),
        ((4, 9), (7, 5), 2, (2, 2)),
        ((2, 8), (2, 8), 4, (1, 2)),
    ],
)
def test_pairwise_equals_a_naive_loop(
    ours: tuple[int, int], theirs: tuple[int, int], patch: int, nodes: tuple[int, int]
) -> None:
    student, teacher = features(0, 6, *ours), features(1, 3, *theirs)
    squares = []
    for a, b in zip(student, teacher, strict=True):
        differences = naive_similarities(a, *nodes) - naive_similarities(b, *nodes)
        squares += differences.square().flatten().tolist()
    assert len(squares) == 2 * (nodes[0] * nodes[1]) ** 2
    assert pairwise(student, teacher, patch).item() == pytest.approx(
        sum(squares) / len(squares), rel=1e-4
    )


def pairwise(student: Tensor, teacher: Tensor, patch: int) -> Tensor:
    logits = torch.zeros(2, 5, 8, 8)
    loss: Tensor = PairwiseLoss(patch)(Outputs(logits, student), Outputs(logits, teacher), labels())
    return loss


@pytest.mark.parametrize(
    ("max_nodes", "nodes"), [(10**6, (10, 13)), (130, (10, 13)), (129, (5, 6)), (12, (3, 4))]
)
def test_pairs_of_the_decoder_are_those_of_a_bounded_number_of_nodes(
    max_nodes: int, nodes: tuple[int, int]
) -> None:
    student, teacher = features(0, 6, 10, 26), features(1, 3, 20, 13)
    logits, deepest = torch.zeros(2, 5, 8, 8), torch.zeros(2, 1, 1, 1)
    loss = PairwiseDecoderLoss(max_nodes)(
        Outputs(logits, deepest, student), Outputs(logits, deepest, teacher), labels()
    )
    torch.testing.assert_close(loss, pairwise_loss(student, teacher, nodes))


def naive_similarities(features: Tensor, height: int, width: int) -> Tensor:
    """Of the means of equal parts of a map (C,h,w), which share a pixel that lies in both."""

    def parts(size: int, count: int) -> list[slice]:
        return [slice(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]

    rows, columns = parts(features.shape[1], height), parts(features.shape[2], width)
    means = [features[:, y, x].mean((1, 2)) for y in rows for x in columns]
    return torch.tensor([[torch.cosine_similarity(a, b, dim=0) for b in means] for a in means])


def test_one_node_has_nothing_to_be_compared_with() -> None:
    assert pairwise(features(0, 6, 4, 4), features(1, 3, 7, 7), patch=9).item() < 1e-12


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
    assert len(TERMS) >= 6


def loss_of(
    term: Term, student: Outputs, teacher: Outputs, labels_BHW: Tensor | None = None
) -> Tensor:
    torch.manual_seed(0)  # of the term's own parameters
    target = labels() if labels_BHW is None else labels_BHW
    loss: Tensor = term.build(student, teacher)(student, teacher, target)
    return loss


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("channels", [6, 3])
def test_term_is_finite_and_binds_the_student_alone(term: type[Term], channels: int) -> None:
    student, teacher = outputs(0, channels, size=5), outputs(1)
    loss = loss_of(term(), student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert loss > 0
    assert all(part is not None and part.grad is None for part in teacher)
    gradients = [part.grad for part in student if part is not None and part.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("term", TERMS)
def test_term_does_not_depend_on_the_order_of_a_batch(term: type[Term]) -> None:
    def swapped(given: Outputs) -> Outputs:
        return Outputs(*(None if part is None else part.flip(0) for part in given))  # type: ignore[arg-type]

    student, teacher = outputs(0, channels=3), outputs(1)
    torch.testing.assert_close(
        loss_of(term(), swapped(student), swapped(teacher), labels().flip(0)),
        loss_of(term(), student, teacher),
    )


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("without", [slice(None), slice(1)], ids=["batch", "image"])
def test_term_is_finite_without_labels(term: type[Term], without: slice) -> None:
    student, teacher, target = outputs(0, channels=3), outputs(1), labels()
    target[without] = 255
    loss = loss_of(term(), student, teacher, target)
    loss.backward()
    assert loss.isfinite()
    for part in student:
        assert part is not None
        assert part.grad is None or part.grad.isfinite().all()
    if term.requires == "logits":
        assert student.logits.grad is not None
        assert student.logits.grad[without].abs().sum() == 0
        assert (loss == 0) == (without == slice(None))


@pytest.mark.parametrize("term", TERMS)
def test_a_weight_multiplies_its_term(term: type[Term]) -> None:
    student, teacher = outputs(0), outputs(1)

    def weighted(weight: float) -> dict[str, Tensor]:
        losses = DistillationLoss(by_name(term(weight=weight)), student, teacher, seed=0)
        named: dict[str, Tensor] = losses(student, teacher, labels())
        return named

    assert weighted(3).keys() == weighted(1).keys() == {term().name}
    torch.testing.assert_close(weighted(3), {n: 3 * loss for n, loss in weighted(1).items()})
    torch.testing.assert_close(weighted(1), {term().name: loss_of(term(), student, teacher)})


@pytest.mark.parametrize("term", TERMS)
def test_term_ignores_ignored_pixels(term: type[Term]) -> None:
    student, teacher = outputs(0), outputs(1)
    disturbed = student.logits.detach().clone()
    disturbed[:, :, :3] += 100 * torch.randn(2, 5, 3, 8)
    before = loss_of(term(), student, teacher)
    after = loss_of(term(), student._replace(logits=disturbed), teacher)
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("term", TERMS)
def test_term_vanishes_for_a_student_equal_to_its_teacher(term: type[Term]) -> None:
    assert loss_of(term(), outputs(0), outputs(0)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("term", [t for t in TERMS if t.requires == "decoder"])
@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_a_network_without_features_of_a_decoder_is_refused(term: type[Term], whose: str) -> None:
    given = {"student": outputs(0), "teacher": outputs(1)}
    given[whose] = given[whose]._replace(decoder=None)
    message = f"the distillation term {term().name} must have a {whose} whose decoder gives a feat"
    with pytest.raises(ValueError, match=message):
        DistillationLoss(by_name(term()), **given, seed=0)


@pytest.mark.parametrize("name", ["", "a.b", "Pixelwise", "pixel-wise", "2d", "_own", "é"])
def test_a_name_that_is_no_part_of_a_dotted_path_is_refused(name: str) -> None:
    message = "the name of a term must be lowercase letters, digits and _, and begin with a letter"
    with pytest.raises(ValidationError, match=f"{message}, but got {name!r}"):
        Distill(losses={name: Pixelwise()})


def test_a_class_of_terms_is_refused_where_it_is_defined() -> None:
    with pytest.raises(ValueError, match=r"the name of a term must be .* but got 'by-edges'"):

        class ByEdges(Term):
            name: Literal["by-edges"] = "by-edges"

    with pytest.raises(ValueError, match="a term must not be named teacher, which is another"):

        class OfTeacher(Term):
            name: Literal["teacher"] = "teacher"


@pytest.mark.parametrize("name", ["values", "training", "forward", "pixelwise_2"])
def test_any_other_name_will_do(name: str) -> None:
    student, teacher = outputs(0), outputs(1)
    recipe = Distill(losses={name: Pixelwise(weight=2)})
    losses = DistillationLoss(recipe.losses, student, teacher, seed=0)
    named: dict[str, Tensor] = losses(student, teacher, labels())
    torch.testing.assert_close(named, {name: 2 * loss_of(Pixelwise(), student, teacher)})
