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
    store_decision,
    why_stopped,
)
from search.study.study import Study, read_records


def recover_study(study: Study) -> list[Record]:
    """Brings the trials of an open study to where a new driver can go on; all as they are then."""
    records = read_records(study)
    halving = replay_decisions(study.config, records)
    history = study.cost_model.problem.new_history()
    return recover(study.optuna_study, records, halving, history, study.objectives)


def recover(
    study: optuna.Study,
    records: Sequence[Record],
    halving: SuccessiveHalving | None,
    history: TrialHistory,
    objectives: Sequence[Objective],
) -> list[Record]:
    """Ends the trials that had come to their end, and queues the others that were RUNNING.

    `records` are all that were asked for, with the latencies that hold now. `halving` has replayed
    the journal; what the dead driver would have asked it next is asked now.
    """
    for record in records:
        history.update(record)

    def recovered(record: Record) -> Record:
        if halving and record.metrics and record.trial_id in history.observations:
            losses = history.minimized_values(record.trial_id, record.metrics)
            if decision := halving.report(record.trial_id, record.metrics.epoch, losses):
                record = store_decision(study, record, decision)
        if record.metrics and record.metrics.finished:
            values = record.measured(objectives)
            return end_trial(study, record, TrialState.COMPLETE, values=values)
        if record.rung_decisions and not record.rung_decisions[-1].promoted:
            return end_trial(study, record, TrialState.PRUNED, why_stopped(record))
        return pause_trial(study, record)

    after = [recovered(record) if record.state == "RUNNING" else record for record in records]
    # What was never handed to Ray is asked anew: until then it is no trial of the study
    return [record for record in after if record.state != "PAUSED" or record.ray_id is not None]


def replay_decisions(config: StudyConfig, records: Iterable[Record]) -> SuccessiveHalving | None:
    """Successive halving with the decisions so far; None where no trial is stopped early."""
    if config.scheduler == "none":
        return None
    rungs = rung_epochs(config.num_epochs, config.num_grace_epochs, config.reduction)
    halving = SuccessiveHalving(rungs, config.num_epochs, config.reduction)
    halving.replay(decision for record in records for decision in record.rung_decisions)
    return halving
