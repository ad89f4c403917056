"""What a driver that died left behind, brought to where the next one can go on."""

from collections.abc import Iterable, Sequence

import optuna
from optuna.trial import TrialState

from search.halving import Arrival, Halving, rungs_of
from search.memory import Memory
from search.objectives import Objective
from search.record import (
    REASON,
    RUNGS,
    Record,
    read_record,
    record_of,
    trial_number,
)
from search.study_config import StudyConfig


def recover(
    study: optuna.Study,
    halving: Halving | None,
    memory: Memory,
    objectives: Sequence[Objective],
) -> None:
    """Ends the trials that had come to their end, and queues the others that were RUNNING.

    `halving` has replayed the journal; what the dead driver would have asked it next is asked now.
    """
    memory.learn_all(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        record = read_record(trial)
        if halving and record.metrics and record.trial_id in memory.observations:
            losses = memory.losses(record.trial_id, record.metrics)
            if arrival := halving.report(record.trial_id, record.metrics.epoch, losses):
                keep_arrival(study, arrival)
                record = record_of(study, trial.number)
        if record.metrics and record.metrics.finished:
            study.tell(trial.number, record.measured(objectives), TrialState.COMPLETE)
        elif record.arrivals and not record.arrivals[-1].goes_on:
            set_attribute(study, trial.number, REASON, why_stopped(record))
            study.tell(trial.number, state=TrialState.PRUNED)
        else:
            pause(study, trial.number)


def replayed(config: StudyConfig, records: Iterable[Record]) -> Halving | None:
    """What stops trials, with all that it has decided so far; None: nothing does."""
    if config.scheduler == "none":
        return None
    rungs = rungs_of(config.epochs, config.grace_epochs, config.reduction)
    halving = Halving(rungs, config.epochs, config.reduction)
    halving.replay(arrival for record in records for arrival in record.arrivals)
    return halving


def pause(study: optuna.Study, number: int) -> None:
    """Puts a RUNNING trial back into the queue as it is: it is the next that is asked."""
    trial = study.get_trials(deepcopy=False)[number]
    study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def keep_arrival(study: optuna.Study, arrival: Arrival) -> None:
    """Stores that a trial has reached a rung."""
    number = trial_number(arrival.trial_id)
    rungs = {
        str(each.rung): [each.place, each.goes_on, list(each.losses)]
        for each in (*record_of(study, number).arrivals, arrival)
    }
    set_attribute(study, number, RUNGS, rungs)


def set_attribute(study: optuna.Study, number: int, name: str, value: object) -> None:
    """Stores a user attribute of a trial that is not finished."""
    trial = study.get_trials(deepcopy=False)[number]
    study._storage.set_trial_user_attr(trial._trial_id, name, value)


def why_stopped(record: Record) -> str:
    """In words, why a trial was stopped before its last epoch."""
    if record.arrivals and not record.arrivals[-1].goes_on:
        return f"stopped after epoch {record.arrivals[-1].rung}: others promise more"
    return "stopped before its last epoch"
