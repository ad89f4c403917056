"""The reported distillation losses are those that train the student; every term trains one."""

import math
from pathlib import Path

import pytest
import torch
from compact_networks import compacted
from factories import ShortTask

from trainables.config import ExecutionConfig, TrialConfig
from trainables.data.configs import Augmentation
from trainables.losses.configs import Term, by_name
from trainables.models.configs import UNetConfig
from trainables.models.model_file import (
    MODEL_FILE,
    deserialize,
    read_model,
    read_spec,
    serialize,
)
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import AdamW, Distill, QatDistill, Recipe, Supervised
from trainables.training.trial import Trial, save

FAST = AdamW(learning_rate=3e-2)
OFF = Lsq(weight_bits=32, activation_bits=32)


TERMS = [term for term in Term.members().values() if term.__module__.startswith("trainables.")]


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize(
    "recipe",
    [
        Distill(optimizer=FAST),
        pytest.param(
            QatDistill(optimizer=FAST, quantizer=OFF, self_study=0), marks=pytest.mark.slow
        ),
    ],
    ids=lambda recipe: recipe.name,
)
def test_a_term_brings_the_student_nearer_to_its_teacher(
    recipe: Recipe, term: type[Term], blocks_run: ExecutionConfig, teacher_file: Path
) -> None:
    def distance(weight: float) -> float:
        taught = recipe.replace(losses=by_name(term(weight=weight)))
        task = ShortTask(taught, blocks_run.replace(teacher=teacher_file), num_epochs=3)
        return list(taught.train(task))[-1].losses[term().name] / weight

    assert distance(10) < 0.8 * distance(1e-3)


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize(
    "recipe",
    [
        Distill(optimizer=FAST),
        pytest.param(
            QatDistill(
                start=Supervised(optimizer=FAST), start_epochs=2, optimizer=FAST, self_study=0.25
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda recipe: recipe.name,
)
def test_every_term_trains_a_student_up_to_its_model_file(
    recipe: Recipe,
    term: type[Term],
    blocks_run: ExecutionConfig,
    teacher_file: Path,
    tmp_path: Path,
) -> None:
    config = TrialConfig(
        student=UNetConfig(width=3, depth=2),
        recipe=recipe.replace(losses=by_name(term())),
        augmentation=Augmentation(min_scale=1, max_scale=1, color=0),
        num_epochs=4,
    )
    assert TrialConfig.model_validate_json(config.model_dump_json()) == config
    trial = Trial(config, blocks_run.replace(teacher=teacher_file))
    metrics = list(save(trial, tmp_path))
    name = term().name
    losses = [epoch.losses[name] for epoch in metrics if name in epoch.losses]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses
    assert metrics[-1].size_bytes == (tmp_path / MODEL_FILE).stat().st_size
    shipped = read_model(tmp_path / MODEL_FILE)
    images = next(trial.task.batches(1)).images
    assert trial.student
    with torch.no_grad():
        trained = trial.student.eval()(images)
        exact = read_spec(tmp_path / MODEL_FILE).replace(format=2)
        converted = deserialize(serialize(trial.student, exact))(images)
        torch.testing.assert_close(converted, trained, rtol=1e-3, atol=1e-3)
        # whose biases are those that integers can add, and, as its steps, have 16 bits
        if trial.config.quantizer:
            assert torch.equal(shipped(images), compacted(trial.student)(images))
        agree = (shipped(images).argmax(1) == trained.argmax(1)).float().mean()
    assert agree > 0.95
