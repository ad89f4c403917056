"""Recovers the trials of a study whose driver has died, so that the next driver continues."""

from collections.abc import Iterable, Sequence

import optuna
from optuna.trial import TrialState

from search.algorithms.observations import TrialHistory
from search.algorithms.successive_halving import SuccessiveHalving, rung_epochs
from search.core.config import StudyConfig
from search.core.objectives import Objective
from search.core.record import Record
from search.storage.trials import (
    end_trial,
    pause_trial,
    read_record,
    store_decision,
    why_stopped,
)
from search.study.study import Study, read_records


def recover_study(study: Study) -> None:
    """Brings the trials of an open study to where a new driver can go on with them."""
    halving = replay_decisions(study.config, read_records(study))
    history = study.cost_model.problem.new_history()
    recover(study.optuna_study, halving, history, study.objectives)


def recover(
    study: optuna.Study,
    halving: SuccessiveHalving | None,
    history: TrialHistory,
    objectives: Sequence[Objective],
) -> None:
    """Ends the trials that had come to their end, and queues the others that were RUNNING.

    `halving` has replayed the journal; what the dead driver would have asked it next is asked now.
    """
    history.update_all(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        record = read_record(trial)
        if halving and record.metrics and record.trial_id in history.observations:
            losses = history.minimized_values(record.trial_id, record.metrics)
            if decision := halving.report(record.trial_id, record.metrics.epoch, losses):
                record = store_decision(study, record, decision)
        if record.metrics and record.metrics.finished:
            end_trial(study, record, TrialState.COMPLETE, values=record.measured(objectives))
        elif record.rung_decisions and not record.rung_decisions[-1].promoted:
            end_trial(study, record, TrialState.PRUNED, why_stopped(record))
        else:
            pause_trial(study, record)


def replay_decisions(config: StudyConfig, records: Iterable[Record]) -> SuccessiveHalving | None:
    """Successive halving with the decisions so far; None where no trial is stopped early."""
    if config.scheduler == "none":
        return None
    rungs = rung_epochs(config.epochs, config.grace_epochs, config.reduction)
    halving = SuccessiveHalving(rungs, config.epochs, config.reduction)
    halving.replay(decision for record in records for decision in record.rung_decisions)
    return halving
