"""Learning rates and decay of parameters, gradient accumulation, and averaged weights."""

import pytest
import torch
from torch import Tensor, nn

from trainables.models.configs import UNetConfig
from trainables.quantization.layers import QuantizedLayer
from trainables.quantization.prepare import prepare
from trainables.quantization.quantizers.configs import Lsq
from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer
from trainables.recipes.configs import AdamW, QuantizerLearningRates
from trainables.recipes.optimization import OptimizerLoop


def test_rates_and_decay_depend_on_what_a_parameter_is() -> None:
    model = prepare(UNetConfig(width=2, depth=1).build(5), Lsq())
    adamw, rates = (
        AdamW(learning_rate=0.1, weight_decay=0.2),
        QuantizerLearningRates(weight=0.3, activation=0.4),
    )
    groups = OptimizerLoop(model, adamw, 10, 1, rates).optimizer.param_groups
    found = {
        parameter: (group["max_lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    expected = {
        "layer.weight": (0.1, 0.2),
        "layer.bias": (0.1, 0),
        "1.weight": (0.1, 0),  # of a normalisation
        "1.bias": (0.1, 0),
        "4.weight": (0.1, 0),
        "4.bias": (0.1, 0),
        "weight_quantizer.log_step": (0.3, 0),
        "input_quantizer.log_step": (0.4, 0),
    }
    seen = set()
    for name, parameter in model.named_parameters():
        kind = ".".join(name.split(".")[-2:])
        assert found[parameter] == expected[kind], name
        seen.add(kind)
    assert seen == set(expected)


class ShiftedGrid(FakeQuantizer):
    """A quantizer of several parameters, one for each element, one that is not trained."""

    def __init__(self, bits: int, shape: tuple[int, ...]) -> None:
        super().__init__(bits)
        self.log_step = nn.Parameter(torch.zeros(shape))
        self.rounding = nn.Parameter(torch.full((2, 3), 0.5))
        self.fixed = nn.Parameter(torch.ones(2, 2))

    @property
    def step(self) -> Tensor:
        return self.log_step.exp()

    def learned_parameters(self) -> list[tuple[nn.Parameter, float]]:
        return [(self.log_step, 1.0), (self.rounding, 10.0)]


def test_no_parameter_of_a_quantizer_decays_or_moves_unasked() -> None:
    layer = QuantizedLayer(nn.Linear(3, 2), ShiftedGrid(4, (2, 1)), ShiftedGrid(4, (1,)))
    rates = QuantizerLearningRates(weight=0.3, activation=0.4)
    loop = OptimizerLoop(layer, AdamW(learning_rate=0.1, weight_decay=0.2), 10, 1, rates)
    found = {
        parameter: (group["max_lr"], group["weight_decay"])
        for group in loop.optimizer.param_groups
        for parameter in group["params"]
    }
    assert {n: found[p] for n, p in layer.named_parameters() if p in found} == {
        "layer.weight": (0.1, 0.2),
        "layer.bias": (0.1, 0),
        "weight_quantizer.log_step": (0.3, 0),
        "weight_quantizer.rounding": (3.0, 0),
        "input_quantizer.log_step": (0.4, 0),
        "input_quantizer.rounding": (4.0, 0),
    }


@pytest.mark.parametrize("parts", [2, 4])
def test_an_update_follows_the_mean_gradient_of_its_parts(parts: int) -> None:
    torch.manual_seed(0)
    model, inputs = nn.Linear(5, 2), torch.randn(8, 5)
    (expected,) = torch.autograd.grad(model(inputs).square().mean(), [model.weight])
    given: list[torch.Tensor] = []
    optimizer_loop = OptimizerLoop(model, AdamW(), 1, parts)
    optimizer_loop.optimizer.register_step_pre_hook(
        lambda *_: given.append(model.weight.grad.clone())
    )  # type: ignore[union-attr]
    for part in inputs.chunk(parts):
        assert not given
        optimizer_loop.step(model(part).square().mean())
    torch.testing.assert_close(given, [expected])


def test_the_moving_average_is_shipped_and_kept() -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), torch.randn(6, 8, 5)
    loop = OptimizerLoop(model, AdamW(learning_rate=0.1), 6, 1, ema_decay=0.5)
    expected: dict[str, Tensor] = {}
    for step, batch in enumerate(inputs):
        loop.step(model(batch).square().mean())
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            before = expected.get(name, value)
            expected[name] = value.clone() if step == 0 else decay * before + (1 - decay) * value
    del expected["1.num_batches_tracked"]
    shipped = loop.shipped.state_dict()
    del shipped["1.num_batches_tracked"]
    torch.testing.assert_close(dict(shipped), expected)
    assert not torch.equal(shipped["0.weight"], model[0].weight)  # type: ignore[arg-type]

    again = OptimizerLoop(
        nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), AdamW(), 6, 1, ema_decay=0.5
    )
    again.load_state_dict(loop.state_dict())
    torch.testing.assert_close(again.shipped.state_dict(), loop.shipped.state_dict())


def test_without_an_average_the_model_itself_is_shipped() -> None:
    model = nn.Linear(2, 2)
    loop = OptimizerLoop(model, AdamW(), 1, 1)
    assert loop.shipped is model
    assert "average" not in loop.state_dict()


def test_each_phase_begins_at_its_peak_and_ends_at_0() -> None:
    model = nn.Linear(2, 2)
    loop = OptimizerLoop(model, AdamW(learning_rate=0.5), 9, 1, cosine_phases=[4, 0, 5])
    rates = []
    for _ in range(9):
        rates.append(loop.optimizer.param_groups[0]["lr"])
        loop.step(model(torch.ones(1, 2)).sum())
    assert rates[0] == rates[4] == 0.5
    assert rates[:4] == sorted(rates[:4], reverse=True)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[2] == pytest.approx(0.25)
    assert loop.optimizer.param_groups[0]["lr"] == 0
