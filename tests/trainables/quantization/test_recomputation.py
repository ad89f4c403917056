"""Quantized inputs that are computed again give the same gradients, and take no memory."""

import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainables.models.configs import UNetConfig
from trainables.quantization import layers
from trainables.quantization.prepare import calibrate, prepare
from trainables.quantization.quantizers.configs import Lsq
from trainables.quantization.recomputation import recomputed


class Held(TorchDispatchMode):
    """The bytes of the tensors that operations have made, and how many were held at most."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for each in tree_leaves(results):
            if isinstance(each, torch.Tensor):
                storage = each.untyped_storage()
                if storage._cdata not in self.held:
                    self.held[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.held.pop, storage._cdata)
                    self.peak = max(self.peak, sum(self.held.values()))
        return results


def student(is_quantized: bool) -> nn.Module:
    torch.manual_seed(0)
    model = UNetConfig(width=8, depth=2).build(5).train()
    images = torch.randn(4, 3, 32, 32)
    if is_quantized:
        model = prepare(model, Lsq(weight_bits=4, activation_bits=4))
        calibrate(model, images)
    return model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload,no-any-return]


def gradients(model: nn.Module) -> tuple[list[torch.Tensor], int]:
    """The gradients of a step, and the bytes that it held at most."""
    torch.manual_seed(1)
    images = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.randint(5, (4, 32, 32))
    with Held() as held:
        F.cross_entropy(model(images), labels).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None], held.peak


def test_gradients_are_the_same_and_a_quantized_step_takes_little_more_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, of_floats = gradients(student(is_quantized=False))
    kept, of_kept = gradients(student(is_quantized=True))
    monkeypatch.setattr(layers, "SCARCE_MEMORY", ("cpu",))
    again, of_again = gradients(student(is_quantized=True))
    for ours, expected in zip(again, kept, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    assert of_again < 1.25 * of_floats < of_kept


def test_only_the_result_itself_is_replaced() -> None:
    """Not a part of it that begins at the same place, and not what is computed from it."""
    value = torch.arange(1.0, 5.0, requires_grad=True)
    calls: list[int] = []

    def double(given: torch.Tensor) -> torch.Tensor:
        calls.append(given.numel())
        return 2 * given

    result = double(value)
    with recomputed(result, double, value):
        total = result.square().sum() + result[:2].square().sum() + (3 * result).square().sum()
    assert calls == [4]
    total.backward()  # type: ignore[no-untyped-call]
    assert calls == [4, 4]
    assert value.grad is not None
    assert value.grad.tolist() == [88, 176, 240, 320]
