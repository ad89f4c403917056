"""Doors into Optuna that its public interface does not have."""

from collections.abc import Callable

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState, create_trial

from search.storage.optuna_storage import StudyWithout

RANGE = FloatDistribution(0, 1)


@pytest.fixture
def study() -> optuna.Study:
    """A trial without parameters, and some with one."""
    made = optuna.create_study(directions=["maximize", "minimize"])
    made.add_trial(create_trial(values=[0.9, 9.0], user_attrs={"apart": True}))
    for value in (0.1, 0.5, 0.7):
        made.add_trial(
            create_trial(values=[value, 1.0], params={"x": value}, distributions={"x": RANGE})
        )
    return made


@pytest.mark.parametrize("make", [NSGAIISampler, lambda: TPESampler(multivariate=True)])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_trial_without_parameters_takes_none_from_samplers(
    make: Callable[[], BaseSampler], study: optuna.Study
) -> None:
    trial = study.trials[0]
    assert make().infer_relative_search_space(study, trial) == {}
    view = StudyWithout(study, "apart")
    assert make().infer_relative_search_space(view, trial) == {"x": RANGE}


def test_it_is_the_same_study_otherwise(study: optuna.Study) -> None:
    study.enqueue_trial({"x": 0.25}, user_attrs={"apart": True})
    trial = StudyWithout(study, "apart").ask()
    assert trial.number == 4
    assert trial.suggest_float("x", 0, 1) == 0.25
    assert study.trials[4].state == TrialState.RUNNING
    assert len(StudyWithout(study, "apart").get_trials()) == 3
    assert len(study.get_trials()) == 5
