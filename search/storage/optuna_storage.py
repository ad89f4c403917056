"""Changes of trials that another process asked for, for which Optuna has no public interface."""

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from trainables.core.config_base import Leaf


def storage_of(study: optuna.Study) -> BaseStorage:
    """The storage of a study, which the functions below change."""
    return study._storage


def set_trial_state(study: optuna.Study, number: int, state: TrialState) -> None:
    """Changes the state of a trial that is not finished; Optuna's own `tell` only finishes one."""
    storage_of(study).set_trial_state_values(trial_id_of(study, number), state)


def set_trial_attribute(study: optuna.Study, number: int, name: str, value: object) -> None:
    """Stores a user attribute of a trial that is not finished."""
    storage_of(study).set_trial_user_attr(trial_id_of(study, number), name, value)


def trial_id_of(study: optuna.Study, number: int) -> int:
    """The storage's own id of a trial."""
    storage = storage_of(study)
    study_id = storage.get_study_id_from_name(study.study_name)
    return storage.get_trial_id_from_study_id_trial_number(study_id, number)


def enqueued_params(trial: FrozenTrial) -> dict[str, Leaf]:
    """The parameters that a trial was enqueued with; none for one that was not."""
    return dict(trial.system_attrs.get("fixed_params", {}))
