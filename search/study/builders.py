"""Builds the searcher and the scheduler of an open study for the trials that are left."""

from collections.abc import Callable, Sequence

from search.algorithms.problem import SamplerSettings
from search.algorithms.warm_start import to_observations
from search.core.record import Record
from search.execution.scheduler import ParetoHalving
from search.execution.searcher import OptunaSearcher, Place, SearchLimits
from search.study.cost_model import shared_starts
from search.study.recovery import replay_decisions
from search.study.study import Study, samples_left
from search.tracking.callbacks import Callback
from trainables.config import ExecutionConfig
from trainables.trainable import EPOCH


def build_searcher(
    study: Study,
    run: ExecutionConfig,
    callbacks: Sequence[Callback],
    is_over: Callable[[], bool],
    place: Place,
) -> OptunaSearcher:
    """The searcher for the trials that are left."""
    config, problem = study.config, study.cost_model.problem
    settings = SamplerSettings(
        sampler=config.sampler,
        seed=config.seed,
        improvement_bar=config.stop_when_flat,
        warm_start_observations=to_observations(study.warm_start_records, problem.new_history()),
    )
    limits = SearchLimits(samples_left(study), is_over, place)
    starts = shared_starts(study.cost_model.completed_samples())
    return OptunaSearcher(
        study.optuna_study, problem, settings, limits, run, config.folder, callbacks, starts
    )


def build_scheduler(
    study: Study, searcher: OptunaSearcher, records: Sequence[Record]
) -> ParetoHalving | None:
    """What stops trials, with all that it has decided so far; None: nothing does."""
    config = study.config
    halving = replay_decisions(config, records)
    if halving is None:
        return None
    scheduler = ParetoHalving(
        searcher.minimized_values,
        max_epochs=config.num_epochs,
        grace_epochs=config.num_grace_epochs,
        reduction=config.reduction,
        time_attr=EPOCH,
        keep=searcher.record_decision,
        name_of=searcher.name_of,
    )
    scheduler.halving = halving
    return scheduler
