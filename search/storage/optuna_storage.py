"""Changes of trials that another process asked for, for which Optuna has no public interface."""

from collections.abc import Container

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


class StudyWithout(optuna.Study):
    """A study as samplers are to see it: without the trials that have a user attribute.

    A trial without parameters would leave samplers no parameter that all trials have.
    """

    def __init__(self, study: optuna.Study, attribute: str) -> None:
        self.__dict__ |= vars(study)
        self._attribute = attribute

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        return [trial for trial in trials if self._attribute not in trial.user_attrs]


def enqueued_params(trial: FrozenTrial) -> dict[str, Leaf]:
    """The parameters that a trial was enqueued with; none for one that was not."""
    return dict(trial.system_attrs.get("fixed_params", {}))
