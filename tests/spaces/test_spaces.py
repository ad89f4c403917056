"""Every space samples valid configurations, named by the paths that they set."""

import optuna
import pytest

from spaces import load_space, space_names
from trainables.config import TrialConfig
from trainables.training.cost import predict_size_bytes


def test_the_spaces_are_found() -> None:
    assert set(space_names()) >= {"supervised", "kd", "mixed", "ptq", "qat", "qkd"}


@pytest.mark.parametrize("name", space_names())
def test_a_space_samples_valid_configurations(name: str) -> None:
    named = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    digests, settings = set(), set()
    for _ in range(50):
        trial = study.ask()
        config = named.space(trial)
        assert TrialConfig.model_validate_json(config.model_dump_json()) == config
        leaves = config.flatten()
        assert trial.params
        assert {name: leaves[name] for name in trial.params} == trial.params
        digests.add(config.digest())
        settings.add(tuple(trial.params.values()))
    assert len(digests) == len(settings) > 30


@pytest.mark.parametrize("name", space_names())
def test_known_settings_are_inside_the_space_and_tried_first(name: str) -> None:
    named = load_space(name)
    assert named.description
    assert named.points_to_evaluate
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for settings in named.points_to_evaluate:
        study.enqueue_trial(dict(settings))
    for settings in named.points_to_evaluate:
        trial = study.ask()
        leaves = named.space(trial).flatten()
        assert {name: leaves[name] for name in settings} == dict(settings)


def test_qkd_explores_all_that_it_promises() -> None:
    trial = optuna.create_study().ask()
    load_space("qkd").space(trial)
    for part in (
        "student.width",
        "optimizer.learning_rate",
        "step_learning_rate.weight",
        "step_learning_rate.activation",
        "weight_bits",
        "activation_bits",
        "pixelwise.weight",
        "pixelwise.temperature",
        "pairwise.weight",
        "self_study",
        "co_study",
    ):
        assert any(name.endswith(part) for name in trial.params), part


def test_known_sizes_differ() -> None:
    named, sizes = load_space("qkd"), []
    study = optuna.create_study()
    for settings in named.points_to_evaluate:
        study.enqueue_trial(dict(settings))
        sizes.append(predict_size_bytes(named.space(study.ask()), 21))
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


def test_an_unknown_space_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"but got .qdk.; did you mean .*qkd"):
        load_space("qdk")
