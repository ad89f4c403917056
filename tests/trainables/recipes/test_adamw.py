"""AdamW on parameters that are parts of one tensor, against PyTorch's own."""

from functools import partial
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import nn

from trainables.recipes.adamw import ALIGNED, FlatAdamW, PlainAdamW


def groups(model: nn.Module) -> list[dict[str, Any]]:
    weights, others = [], []
    for parameter in model.parameters():
        (weights if parameter.ndim > 1 else others).append(parameter)
    return [
        {"params": weights, "lr": 0.1, "weight_decay": 0.3},
        {"params": others, "lr": 0.01, "weight_decay": 0.0},
    ]


class Model(nn.Module):
    """Its second part is not used before a later phase."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.later = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1)
        self.never = nn.Linear(2, 2)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: torch.Tensor, with_later: bool) -> torch.Tensor:
        result: torch.Tensor = self.first(images)
        return self.later(result) if with_later else result  # type: ignore[no-any-return]


def take_steps(
    model: Model, optimizer: torch.optim.Optimizer, steps: range, later_from: int = 3
) -> None:
    for step in steps:
        images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        model(images, with_later=step >= later_from).square().mean().backward()
        if isinstance(optimizer, FlatAdamW):
            optimizer.flatten()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)


def assert_same(model: nn.Module, other: nn.Module) -> None:
    for ours, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)
        assert ours.stride() == expected.stride()


def test_it_computes_the_numbers_of_pytorchs_own() -> None:
    """Also for parameters that get gradients later, and none for those that never do."""
    model, reference = Model(), Model()
    flat, plain = FlatAdamW(groups(model)), PlainAdamW(groups(reference), fused=True)
    take_steps(model, flat, range(8))
    take_steps(reference, plain, range(8))
    assert_same(model, reference)
    assert model.never.weight.grad is None
    assert torch.equal(model.never.weight, Model().never.weight)
    joined = sorted(len(parts) for parts in flat.parts.values())
    assert joined == [1, 1, 1, 1]  # a weight and a bias of each phase
    assert all(sum(len(g["params"]) for g in o.param_groups) == 6 for o in (flat, plain))


def test_states_are_those_of_single_parameters() -> None:
    model, reference = Model(), Model()
    flat, plain = FlatAdamW(groups(model)), PlainAdamW(groups(reference), fused=True)
    take_steps(model, flat, range(5))
    take_steps(reference, plain, range(5))
    ours, expected = flat.state_dict(), plain.state_dict()
    assert ours["param_groups"] == expected["param_groups"]
    assert ours["state"].keys() == expected["state"].keys()
    for index, state in expected["state"].items():
        assert state.keys() == ours["state"][index].keys()
        for name, value in state.items():
            torch.testing.assert_close(ours["state"][index][name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("is_flat", [False, True])
@pytest.mark.parametrize("stopped_at", [2, 5])
def test_it_goes_on_exactly_from_states_of_either(stopped_at: int, is_flat: bool) -> None:
    """Where it stopped before or after the later part was used."""
    model, whole = Model(), Model()
    kind = FlatAdamW if is_flat else PlainAdamW
    optimizer = kind(groups(model)) if is_flat else PlainAdamW(groups(model), fused=True)
    take_steps(model, optimizer, range(stopped_at))
    again = Model()
    again.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    resumed = FlatAdamW(groups(again))
    resumed.load_state_dict(optimizer.state_dict())
    take_steps(again, resumed, range(stopped_at, 8))
    take_steps(whole, FlatAdamW(groups(whole)), range(8))
    for ours, expected in zip(again.parameters(), whole.parameters(), strict=True):
        if is_flat:
            assert torch.equal(ours, expected)
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)


def test_parameters_are_parts_of_one_tensor_where_memory_is_aligned() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.Conv2d(5, 2, 1, bias=False))
    flat = FlatAdamW([{"params": list(model.parameters()), "lr": 0.1}])
    model(torch.ones(1, 3, 3, 3)).sum().backward()
    addresses = [each.data_ptr() for each in model.parameters()]
    for _ in range(2):
        flat.flatten()
    (parts,) = flat.parts.values()
    assert parts == list(model.parameters())
    ((only,),) = [group["params"] for group in flat.param_groups]
    assert only.numel() == 144 + ALIGNED
    for part, offset, before in zip(parts, (0, 144), addresses, strict=True):
        assert part.data_ptr() == only.data_ptr() + 4 * offset != before
        assert part.grad is not None
        assert only.grad is not None
        assert part.grad.data_ptr() == only.grad.data_ptr() + 4 * offset
    flat.zero_grad(set_to_none=False)
    assert all(part.grad is not None and not part.grad.any() for part in parts)


def test_parameters_of_one_state_may_go_on_apart() -> None:
    """As where a training continues in a phase in which only some of them have gradients."""
    models, kept = (Model(), Model()), []
    for model, kind in zip(models, (FlatAdamW, partial(PlainAdamW, fused=True)), strict=True):
        optimizer = kind(groups(model))  # type: ignore[operator]
        take_steps(model, optimizer, range(4), later_from=0)
        file = BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        resumed = kind(groups(model))  # type: ignore[operator]
        for parameter in model.parameters():
            parameter.grad = None
        resumed.load_state_dict(torch.load(file, weights_only=True))
        take_steps(model, resumed, range(4, 9), later_from=6)
        kept.append(resumed.state_dict()["state"])
    assert_same(*models)
    steps = [{index: float(state["step"]) for index, state in states.items()} for states in kept]
    assert steps[0] == steps[1] == {0: 9, 1: 7, 3: 9, 4: 7}


def test_a_gradient_that_leaves_its_place_is_noticed() -> None:
    model = Model()
    optimizer = FlatAdamW(groups(model))
    take_steps(model, optimizer, range(2))
    model.zero_grad()
    with pytest.raises(AssertionError):
        take_steps(model, optimizer, range(2, 3))
