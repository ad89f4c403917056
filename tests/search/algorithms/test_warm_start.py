"""Warm start of a new study from an earlier one."""

from pathlib import Path

import optuna
import pytest
from factories import make_metrics
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.algorithms.candidates import sample_config
from search.algorithms.observations import TrialHistory
from search.algorithms.warm_start import (
    NUM_FIRST,
    read_warm_start_records,
    select_points_to_evaluate,
    to_observations,
)
from search.core.constraints import Costs
from search.core.objectives import MIOU_AND_SIZE
from search.storage.trials import CONFIG, RAY_ID, metrics_key
from spaces import load_space

BITS = "recipe.quantizer.weight_bits"


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A `mixed` study of twelve finished trials, all on the front, and a stopped one."""
    (tmp_path / "before").mkdir()
    journal = JournalStorage(JournalFileBackend(str(tmp_path / "before" / "journal.log")))
    study = optuna.create_study(
        study_name="before", storage=journal, directions=["maximize", "minimize"]
    )
    space = load_space("qat").space
    for number in range(13):
        _, drawn = sample_config(load_space("mixed").space, {}, number)
        config, _ = sample_config(space, {}, number)
        size = 1000 * (number + 1)
        metrics = make_metrics(0.01 * number, size)
        done = number < 12
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if done else optuna.trial.TrialState.PRUNED,
                params=dict(drawn.params),
                distributions=dict(drawn.distributions),
                values=[metrics.miou, size] if done else None,
                user_attrs={
                    CONFIG: config.model_dump_json(),
                    metrics_key(metrics.epoch): metrics.model_dump_json(),
                    RAY_ID: str(number),
                },
            )
        )
    return tmp_path


def test_the_front_is_tried_first_as_far_as_the_new_space_has_it(storage: Path) -> None:
    records = read_warm_start_records(storage, "before", resumed=False)
    assert len(records) == 12
    settings = select_points_to_evaluate(records, load_space("qat").space, MIOU_AND_SIZE)
    assert len(settings) == NUM_FIRST
    for params in settings:
        assert "student.width" in params
        assert "recipe.quantizer.encoder" not in params  # unknown to qat
        assert BITS not in params  # whole numbers there
    assert settings[0]["student.width"] == records[0].params["student.width"]


def test_the_sampler_gets_all_finished_trials(storage: Path) -> None:
    history = TrialHistory(MIOU_AND_SIZE, lambda config: Costs(size_bytes=5, macs=1))
    records = read_warm_start_records(storage, "before", resumed=False)
    observations = to_observations(records, history)
    assert len(observations) == 12
    assert all(each.final is not None and each.costs == (5.0,) for each in observations)


def test_studies_that_cannot_be_a_warm_start(storage: Path) -> None:
    assert read_warm_start_records(storage, None, resumed=False) == []
    with pytest.raises(ValueError, match="--warm-start must name a study in"):
        read_warm_start_records(storage, "gone", resumed=False)
    assert read_warm_start_records(storage, "gone", resumed=True) == []
    (storage / "empty").mkdir()
    journal = JournalStorage(JournalFileBackend(str(storage / "empty" / "journal.log")))
    optuna.create_study(study_name="empty", storage=journal)
    with pytest.raises(ValueError, match="with finished trials, but empty has none"):
        read_warm_start_records(storage, "empty", resumed=False)
