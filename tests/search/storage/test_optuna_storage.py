"""The private interfaces of Optuna behave as the adapter expects."""

from pathlib import Path

import optuna
from optuna.trial import TrialState

from search.core.objectives import MIOU_AND_SIZE
from search.storage.journal import open_journal, read_journal
from search.storage.optuna_storage import enqueued_params, set_trial_attribute, set_trial_state


def test_a_running_trial_goes_back_into_the_queue_with_what_it_holds(tmp_path: Path) -> None:
    study = open_journal(tmp_path, "s", MIOU_AND_SIZE)
    study.ask()
    number = study.ask().number
    set_trial_attribute(study, number, "note", {"a": [1, None]})
    set_trial_state(study, number, TrialState.WAITING)
    for each in (study, read_journal(tmp_path, "s")):
        states = [trial.state for trial in each.get_trials(deepcopy=False)]
        assert states == [TrialState.RUNNING, TrialState.WAITING]
        assert each.get_trials(deepcopy=False)[number].user_attrs == {"note": {"a": [1, None]}}
    assert study.ask().number == number


def test_trials_are_found_by_their_number_in_a_storage_of_several_studies() -> None:
    storage = optuna.storages.InMemoryStorage()
    first, second = (optuna.create_study(study_name=n, storage=storage) for n in ("a", "b"))
    first.ask()
    number = second.ask().number
    set_trial_attribute(second, number, "note", 1)
    assert first.get_trials()[0].user_attrs == {}
    assert second.get_trials()[number].user_attrs == {"note": 1}


def test_what_a_trial_was_enqueued_with_is_known(tmp_path: Path) -> None:
    study = open_journal(tmp_path, "s", MIOU_AND_SIZE)
    study.enqueue_trial({"x": 0.5, "y": "b"})
    study.ask()
    study.ask()
    enqueued, drawn = read_journal(tmp_path, "s").get_trials(deepcopy=False)
    assert enqueued_params(enqueued) == {"x": 0.5, "y": "b"}
    assert enqueued_params(drawn) == {}
