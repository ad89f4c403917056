"""Builds the searcher and the scheduler of an open study for the trials that are left."""

from collections.abc import Callable, Sequence

from search.algorithms.warm_start import to_observations
from search.execution.scheduler import ParetoHalving
from search.execution.searcher import OptunaSearcher
from search.study.recovery import replay_decisions
from search.study.study import Study, read_records, samples_left
from search.tracking.callbacks import Callback
from trainables.config import ExecutionConfig
from trainables.trainable import EPOCH


def build_searcher(
    study: Study,
    run: ExecutionConfig,
    callbacks: Sequence[Callback],
    is_over: Callable[[], bool],
    max_pending_trials: Callable[[], float],
) -> OptunaSearcher:
    """The searcher for the trials that are left."""
    config, cost_model = study.config, study.cost_model
    return OptunaSearcher(
        study=study.optuna_study,
        space=cost_model.named.space,
        complete=cost_model.complete,
        objectives=study.objectives,
        predict_cost=cost_model.predict_cost,
        history=cost_model.new_trial_history(),
        budget=config.budget,
        run=run,
        folder=config.folder,
        num_trials=samples_left(study),
        sampler=config.sampler,
        seed=config.seed,
        callbacks=callbacks,
        warm_start_observations=to_observations(
            study.warm_start_records, cost_model.new_trial_history()
        ),
        improvement_bar=config.stop_when_flat,
        is_over=is_over,
        capacity=max_pending_trials,
    )


def build_scheduler(study: Study, searcher: OptunaSearcher) -> ParetoHalving | None:
    """What stops trials, with all that it has decided so far; None: nothing does."""
    config = study.config
    halving = replay_decisions(config, read_records(study))
    if halving is None:
        return None
    scheduler = ParetoHalving(
        searcher.minimized_values,
        max_epochs=config.epochs,
        grace_epochs=config.grace_epochs,
        reduction=config.reduction,
        time_attr=EPOCH,
        keep=searcher.record_decision,
        name_of=searcher.name_of,
    )
    scheduler.halving = halving
    return scheduler
