"""AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with few and light calls."""

import inspect
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

ALIGNED = 16
"""Values to whose multiples parameters begin: 64 bytes of float32, as all tensors of PyTorch do."""

STEP = "step"
"""Of the state of a parameter: how many updates it has had, for all of its values."""


class PlainAdamW(torch.optim.AdamW):
    """PyTorch's AdamW without its decorators for torch.compile, which load `torch._dynamo`.

    That takes three seconds in each process that trains, most of which compile nothing.
    """

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class FlatAdamW(PlainAdamW):
    """The same, with the parameters of a group as parts of one tensor.

    It computes the same numbers, up to the rounding of those that do not fill a vector of the
    processor, and its states are those of the single parameters.
    """

    def __init__(self, groups: Sequence[dict[str, Any]]) -> None:
        super().__init__(groups, fused=True)
        self.given = [list(group["params"]) for group in self.param_groups]
        self.parts: dict[nn.Parameter, list[nn.Parameter]] = {}
        """The parameters that are parts of each flat one."""

    @torch.no_grad()
    def flatten(self) -> None:
        """Joins the parameters that have gradients now; others get theirs in a later phase.

        Their values and gradients move to another place in memory, once, and must stay there.
        """
        assert all(is_part(parts[0], flat) for flat, parts in self.parts.items())
        for group in self.param_groups:
            alike: dict[Hashable, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None and parameter not in self.parts:
                    num_steps = float(self.state[parameter].get(STEP, 0))
                    kind = parameter.dtype, parameter.device, num_steps
                    alike.setdefault(kind, []).append(parameter)
            group["params"] = [
                *(self._join(parameters) for parameters in alike.values()),
                *(each for each in group["params"] if each.grad is None or each in self.parts),
            ]

    def _join(self, parameters: list[nn.Parameter]) -> nn.Parameter:
        flat = nn.Parameter(joined(parameters, parameters))
        flat.grad = joined([each.grad for each in parameters if each.grad is not None], parameters)
        states = [self.state.pop(each) for each in parameters]
        if states[0]:
            self.state[flat] = {
                name: value
                if name == STEP
                else joined([state[name] for state in states], parameters)
                for name, value in states[0].items()
            }
        values, gradients = split(flat.data, parameters), split(flat.grad, parameters)
        for parameter, value, gradient in zip(parameters, values, gradients, strict=True):
            parameter.data, parameter.grad = value, gradient
        self.parts[flat] = parameters
        return flat

    def state_dict(self) -> dict[str, Any]:
        groups, states = [group["params"] for group in self.param_groups], self.state
        self._give(self.given, self._states_of_given())
        try:
            written: dict[str, Any] = super().state_dict()
            return written
        finally:
            self._give(groups, states)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._give(self.given, {})
        self.parts.clear()
        super().load_state_dict(state_dict)

    def _give(self, groups: list[list[nn.Parameter]], states: Mapping[Tensor, Any]) -> None:
        for group, parameters in zip(self.param_groups, groups, strict=True):
            group["params"] = parameters
        self.state = defaultdict(dict, states)

    def _states_of_given(self) -> dict[Tensor, Any]:
        """The state of each single parameter; those of flat ones are parts of them."""
        states = dict(self.state)
        for flat, parameters in self.parts.items():
            if flat in states:
                parts = {
                    name: [value.clone() for _ in parameters]
                    if name == STEP
                    else split(value, parameters)
                    for name, value in states.pop(flat).items()
                }
                for index, parameter in enumerate(parameters):
                    states[parameter] = {name: values[index] for name, values in parts.items()}
        return states


def is_part(parameter: nn.Parameter, flat: nn.Parameter) -> bool:
    """Whether value and gradient of the first part of a flat parameter are still parts of it."""
    if parameter.grad is None or flat.grad is None:
        return False
    return (parameter.data_ptr(), parameter.grad.data_ptr()) == (
        flat.data_ptr(),
        flat.grad.data_ptr(),
    )


def joined(values: Sequence[Tensor], like: Sequence[Tensor]) -> Tensor:
    """One flat tensor with the values, each in the memory format of the tensor it is like."""
    count = sum(map(aligned_size, like))
    flat = torch.zeros(count, dtype=values[0].dtype, device=values[0].device)
    for part, value in zip(split(flat, like), values, strict=True):
        part.copy_(value)
    return flat


def split(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a flat tensor, with the shapes and memory formats of others."""
    ends = list(accumulate(map(aligned_size, like)))
    return [
        flat.as_strided(each.shape, each.stride(), end - aligned_size(each))
        for each, end in zip(like, ends, strict=True)
    ]


def aligned_size(tensor: Tensor) -> int:
    """The number of its values, rounded up so that the next one begins where memory is aligned."""
    return -(-tensor.numel() // ALIGNED) * ALIGNED
