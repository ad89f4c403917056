"""Warm start from an earlier study: observations for the sampler, and points to try first."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from optuna.trial import TrialState

from search.algorithms.candidates import Params, sample_config
from search.algorithms.observations import Observation, TrialHistory
from search.core.objectives import Objective
from search.core.pareto import pareto_front
from search.core.record import Record
from search.storage.journal import read_journal
from search.storage.layout import JOURNAL
from search.storage.trials import read_record
from spaces import Space

NUM_FIRST = 6
"""Points of the earlier front that are tried first, evenly spread over it."""


def read_warm_start_records(storage: Path, name: str | None, resumed: bool) -> list[Record]:
    """The finished trials of an earlier study; none for a resumed study where it was deleted.

    Raises:
        ValueError: there is no such study, or none of its trials has finished.
    """
    if name is None:
        return []
    if not (storage / name / JOURNAL).is_file():
        if resumed:
            return []
        raise ValueError(f"--warm-start must name a study in {storage}, but there is no {name}")
    study = read_journal(storage / name, name)
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not trials:
        raise ValueError(
            f"--warm-start must name a study with finished trials, but {name} has none"
        )
    return [read_record(trial) for trial in trials]


def to_observations(records: Sequence[Record], history: TrialHistory) -> list[Observation]:
    """The trials as observations of this study's objectives, where these are known for them."""
    for record in records:
        history.update(record)
    return history.all_observations()


def select_points_to_evaluate(
    records: Sequence[Record], space: Space, objectives: Sequence[Objective]
) -> list[Params]:
    """Parameters of the earlier front, those that the new space has, with values in its range."""
    front = pareto_front(records, objectives)
    chosen = np.unique(np.linspace(0, len(front) - 1, NUM_FIRST).round().astype(int))
    settings = []
    for index in chosen:
        wanted = front[index].params
        _, drawn = sample_config(space, wanted)
        settings.append({k: v for k, v in drawn.params.items() if wanted.get(k) == v})
    return [params for params in settings if params]
