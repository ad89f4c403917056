"""A copy of the studies of a storage in memory, as Optuna Dashboard is to show them."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.core.objectives import named_objectives
from search.core.parameter_names import short_names
from search.storage.journal import name_metrics, read_journal
from search.storage.layout import JOURNAL, STUDY_FILE
from search.storage.study_file import StudyFile, read_study_file
from search.storage.trials import CONFIG, REASON, asked_trials


def study_folders(storage: Path) -> list[Path]:
    """The folders of the studies in a storage that have trials, by name.

    Raises:
        ValueError: there is none.
    """
    found = sorted(path.parent for path in storage.glob(f"*/{JOURNAL}"))
    folders = [folder for folder in found if (folder / STUDY_FILE).is_file()]
    if not folders:
        raise ValueError(f"the storage must hold studies, but there is none in {storage}")
    return folders


def copy_studies(storage: Path) -> InMemoryStorage:
    """The studies with short names of parameters and the names of their objectives.

    Raises:
        ValueError: there is none, or one is damaged.
    """
    copies = InMemoryStorage()
    for folder in study_folders(storage):
        file = read_study_file(folder, "STORAGE")
        copy_study(file, read_journal(folder, file.config.name), copies)
    return copies


def copy_study(file: StudyFile, study: optuna.Study, copies: InMemoryStorage) -> None:
    trials = asked_trials(study)
    names = short_names(dict.fromkeys(path for trial in trials for path in trial.distributions))
    copied = optuna.create_study(
        storage=copies, study_name=file.config.name, directions=study.directions
    )
    name_metrics(copied, named_objectives(file.config.objectives))
    copied.set_user_attr("space", file.config.space)
    copied.set_user_attr("data", file.config.data)
    copied.add_trials(copy_trials(trials, names))


def copy_trials(trials: Sequence[FrozenTrial], names: dict[str, str]) -> list[FrozenTrial]:
    """The trials with other names of parameters, and of their attributes the configuration."""
    copies = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        for trial in trials:
            kept = {
                name: trial.user_attrs[name]
                for name in (CONFIG, REASON)
                if name in trial.user_attrs
            }
            copy = create_trial(
                state=trial.state,
                values=trial.values if trial.state == TrialState.COMPLETE else None,
                params={names[path]: value for path, value in trial.params.items()},
                distributions={names[path]: d for path, d in trial.distributions.items()},
                user_attrs=kept,
            )
            copy.datetime_start, copy.datetime_complete = (
                trial.datetime_start,
                trial.datetime_complete,
            )
            copies.append(copy)
    return copies
