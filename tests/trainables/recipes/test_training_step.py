"""Steps that are replayed, as a GPU replays them, give the numbers of steps that are called."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, get_args

import pytest
import torch
from factories import ShortTask
from recorded_operations import Replayed
from torch import Tensor

from trainables.config import ExecutionConfig, TrialConfig
from trainables.data.configs import Augmentation
from trainables.losses.configs import (
    AttentionGuided,
    Channelwise,
    ChannelwiseFeatures,
    LabelLossConfig,
    Pairwise,
    PairwiseDecoder,
    Pixelwise,
    by_name,
)
from trainables.models.configs import UNetConfig
from trainables.quantization import layers
from trainables.quantization.quantizers.configs import Lsq, QuantizerName
from trainables.recipes import captured, training_step
from trainables.recipes.base import Epoch
from trainables.recipes.captured import Captured
from trainables.recipes.configs import AdamW, Distill, Qat, QatDistill, Recipe, Supervised
from trainables.teachers.output_cache import cache_outputs
from trainables.training import evaluation
from trainables.training.trial import Trial

FAST = AdamW(learning_rate=1e-2)
W4A4 = Lsq(weight_bits=4, activation_bits=4)
TERMS = by_name(
    Pixelwise(where="teacher_right"),
    Pairwise(),
    PairwiseDecoder(),
    Channelwise(),
    ChannelwiseFeatures(),
    AttentionGuided(),
)
QKD = QatDistill(quantizer=W4A4, optimizer=FAST, self_study=0.25, co_study=0.5)
TRAININGS: dict[str, tuple[Recipe, dict[str, object]]] = {
    "supervised": (Supervised(optimizer=FAST), {}),
    "average": (Supervised(optimizer=FAST), {"ema_decay": 0.9}),
    "two parts a step": (Supervised(optimizer=FAST), {"accumulation_steps": 2}),
    "lovasz": (Supervised(optimizer=FAST), {"overlap": "lovasz"}),
    "dice": (Supervised(optimizer=FAST), {"overlap": "dice"}),
    "distilled": (Distill(optimizer=FAST, losses=TERMS, term_weights="learned"), {}),
    **{
        name: (Qat(quantizer=W4A4.of_kind(name), optimizer=FAST), {})
        for name in get_args(QuantizerName)
    },
    "fewer bits": (Qat(quantizer=W4A4, optimizer=FAST, bit_descent=2, dampening=0.1), {}),
    "qkd": (QKD, {}),
    "qkd, two parts a step": (QKD, {"accumulation_steps": 2}),
    "qkd, fewer bits": (QKD.replace(bit_descent=2, dampening=0.1, schedule="one_cycle"), {}),
}


@pytest.fixture
def run(blocks_run: ExecutionConfig, teacher_file: Path) -> ExecutionConfig:
    return blocks_run.replace(teacher=teacher_file)


def replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has steps and predictions replayed from their second call on, with what only GPUs do."""
    Replayed.num_replays.clear()
    monkeypatch.setattr(layers, "SCARCE_MEMORY", ("cpu",))
    monkeypatch.setattr(captured, "NUM_EAGER", 1)
    for module in (training_step, evaluation):
        monkeypatch.setattr(module, "Captured", Replayed)


def train(recipe: Recipe, run: ExecutionConfig, changes: dict[str, object]) -> list[Epoch]:
    """Four epochs of four steps."""
    task = ShortTask(recipe, run, num_epochs=4)
    task.accumulation_steps = int(str(changes.get("accumulation_steps", 1)))
    task.ema_decay = float(str(changes.get("ema_decay", 0)))
    if overlap := changes.get("overlap"):
        config = LabelLossConfig.model_validate({"overlap": overlap})
        task.label_loss = config.build(task.data.label_counts, task.device)
    return [
        Epoch({n: v.clone() for n, v in epoch.student.state_dict().items()}, epoch.losses)  # type: ignore[arg-type]
        for epoch in recipe.train(task)
    ]


class Refusing(Replayed):
    """A GPU that records no graphs."""

    def _record(self, inputs: Tensor) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory\nTried to allocate")

    _refuse = Captured._refuse


def test_without_a_graph_functions_are_called(caplog: pytest.LogCaptureFixture) -> None:
    captured.SAID.clear()
    double = Refusing(lambda value: value * 2)
    for number in range(2 * captured.NUM_EAGER):
        assert double(torch.tensor(number)) == 2 * number
    assert caplog.messages == [
        "no CUDA graph, steps take longer: OutOfMemoryError: CUDA out of memory"
    ]
    assert not double.recordings


def test_another_shape_has_a_graph_of_its_own() -> None:
    double = Replayed(lambda value: (value * 2,))
    for _ in range(2 * captured.NUM_EAGER):
        for size in (2, 3):
            (result,) = double(torch.full((size,), float(size)))
            assert result.tolist() == [2.0 * size] * size
    assert len(double.recordings) == 2
    double.forget()
    assert not double.recordings


@pytest.mark.parametrize(
    "reading", [lambda v: v[v > 0], lambda v: v * float(v.sum()), lambda v: v + torch.tensor([1])]
)
def test_what_waits_for_a_device_is_noticed(reading: Callable[[Tensor], Tensor]) -> None:
    """So that the trainings above would fail where a graph could not hold a step."""
    replayed = Replayed(reading)
    for _ in range(captured.NUM_EAGER):
        replayed(torch.ones(2))
    with pytest.raises(AssertionError, match=r"waits|is sent"):
        replayed(torch.ones(2))


def assert_same(ours: list[Epoch], expected: list[Epoch]) -> None:
    for epoch, reference in zip(ours, expected, strict=True):
        assert epoch.losses == pytest.approx(reference.losses, rel=1e-6)
        torch.testing.assert_close(epoch.student, reference.student, rtol=1e-6, atol=1e-7)


FAST_ONES = {"supervised", "two parts a step", "lovasz", "dice", "qkd, fewer bits"}


@pytest.mark.parametrize(
    "name",
    [n if n in FAST_ONES else pytest.param(n, marks=pytest.mark.slow) for n in TRAININGS],
)
def test_a_replayed_training_gives_the_same_numbers(
    name: str, run: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, changes = TRAININGS[name]
    expected = train(recipe, run, changes)
    replay(monkeypatch)
    assert_same(train(recipe, run, changes), expected)
    num_graphs = (3 if name.startswith("qkd") else 1) + ("fewer bits" in name)
    num_calls = 16 * int(str(changes.get("accumulation_steps", 1)))
    assert Replayed.num_replays.total() == num_calls - num_graphs


@pytest.mark.parametrize("form", ["views", "maps"])
def test_kept_outputs_are_read_anew_in_each_step(
    form: str, run: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmentation = Augmentation(min_scale=1, max_scale=1, color=0)
    kept = run.replace(teacher_outputs=cache_outputs(run, form, augmentation))  # type: ignore[arg-type]
    recipe = Distill(optimizer=FAST, losses=by_name(Pixelwise(), Pairwise()))
    expected = train(recipe, kept, {})
    replay(monkeypatch)
    assert_same(train(recipe, kept, {}), expected)


def test_a_replayed_trial_is_measured_alike(
    run: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations are replayed, too, in which a student is not yet, or no longer, as it was."""
    config = TrialConfig(
        student=UNetConfig(width=4, depth=2),
        recipe=Qat(start=Supervised(optimizer=FAST), optimizer=FAST, bit_descent=2),
        augmentation=Augmentation(min_scale=1, max_scale=1, color=0),
        num_epochs=4,
        batch_size=8,
    )
    expected = list(Trial(config, run))
    replay(monkeypatch)
    monkeypatch.setattr(evaluation, "BATCH_SIZE", 4)  # else there is one batch
    monkeypatch.setattr(evaluation, "MIN_REPLAYED", 1)
    for ours, reference in zip(Trial(config, run), expected, strict=True):
        assert ours.losses == pytest.approx(reference.losses, rel=1e-6)
        assert ours.class_iou == pytest.approx(reference.class_iou)
        assert ours.changed_pixels == reference.changed_pixels
    names = {name.split(".")[0] for name in Replayed.num_replays}
    assert names == {"TrainingStep", "prediction"}
