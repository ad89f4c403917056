"""The searches that are compared: this project's classes, and other libraries' public API."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.search_efficiency.simulate import Method
from benchmarks.search_efficiency.table import Curve, Table
from search.algorithms.observations import Observation, final_mious
from search.algorithms.problem import SamplerSettings, SearchProblem
from search.algorithms.proposer import make_seed
from search.algorithms.successive_halving import CONFIDENCE_WIDTH
from search.core.config import SamplerName
from search.core.objectives import MIOU_AND_SIZE
from search.execution.scheduler import ParetoHalving
from search.execution.searcher import OptunaSearcher, SearchLimits
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.metrics import Metrics
from trainables.trainable import FAILURE, METRICS

DIRECTIONS = [objective.direction for objective in MIOU_AND_SIZE]
NOBODY: Any = None
"""The controller of Tune, which these schedulers do not ask."""
REDUCTION = 3
EARLIER_LEVEL = 0.1
"""Of mIoU by which an earlier study, on other images, lay lower."""


class Ours:
    """This project's searcher and scheduler, on an Optuna study in memory."""

    def __init__(
        self,
        table: Table,
        seed: int,
        sampler: SamplerName,
        confidence_width: float | None,
        priors: bool,
        num_earlier: int = 0,
    ) -> None:
        self.table = table
        self.taken: set[int] = set()
        study = optuna.create_study(directions=DIRECTIONS)
        for settings in table.points_to_evaluate if priors else ():
            study.enqueue_trial(dict(settings))
        by_digest = {curve.config.digest(): curve.costs for curve in table.curves}
        self.rows = {curve.config.digest(): row for row, curve in enumerate(table.curves)}
        self.searcher = OptunaSearcher(
            study,
            SearchProblem(
                space=self.space,
                complete=lambda config: config,
                predict_cost=lambda config: by_digest[config.digest()],
                predict_cost_if_known=lambda config: by_digest[config.digest()],
                commonest_miou=table.floor,
                least_miou=table.floor,
            ),
            SamplerSettings(
                sampler, seed, warm_start_observations=earlier_study(table, num_earlier, seed)
            ),
            SearchLimits(num_trials=10**9),
            run=ExecutionConfig(data=Path("data"), artifacts=Path("artifacts")),
            folder=Path("."),
        )
        self.scheduler = (
            ParetoHalving(
                self.searcher.minimized_values,
                table.num_epochs,
                reduction=REDUCTION,
                confidence_width=confidence_width,
                keep=self.searcher.record_decision,
                name_of=self.searcher.name_of,
            )
            if confidence_width is not None
            else None
        )

    def space(self, trial: optuna.Trial) -> TrialConfig:
        return self.table.curves[self.table.nearest(self.table.params_of(trial), self.taken)].config

    def suggest(self, job: str, taken: set[int]) -> int | None:
        self.taken = taken
        suggestion = self.searcher.suggest(job)
        if not isinstance(suggestion, dict):
            return None
        return self.rows[TrialConfig.model_validate(suggestion["trial"]).digest()]

    def report(self, job: str, curve: Curve, epoch: int) -> bool:
        result = {METRICS: metrics_of(curve, epoch), "training_iteration": epoch}
        if self.scheduler:
            trial: Any = SimpleNamespace(trial_id=job)
            if self.scheduler.on_trial_result(NOBODY, trial, result) == TrialScheduler.STOP:
                self.searcher.on_trial_complete(job, result)
                return False
        self.searcher.on_trial_result(job, result)
        return True

    def complete(self, job: str, curve: Curve) -> None:
        result = {
            METRICS: metrics_of(curve, len(curve.miou)),
            "training_iteration": len(curve.miou),
        }
        if self.scheduler and not curve.failed:
            trial: Any = SimpleNamespace(trial_id=job)
            self.scheduler.on_trial_complete(None, trial, result)
        self.searcher.on_trial_complete(job, {FAILURE: "failed"} if curve.failed else result)


class ExtrapolatingTpe(Ours):
    """Halving, and TPE that sees stopped trials with the mIoU they would have ended with."""

    def __init__(self, table: Table, seed: int) -> None:
        super().__init__(table, seed, "random", CONFIDENCE_WIDTH, priors=False)
        self.seed = seed

    def suggest(self, job: str, taken: set[int]) -> int | None:
        known = self.searcher.history.all_observations()
        shadow = optuna.create_study(
            directions=DIRECTIONS, sampler=tpe(make_seed(self.seed, len(taken)))
        )
        for observation, miou in zip(known, final_mious(known), strict=True):
            if np.isfinite(miou):
                shadow.add_trial(
                    optuna.trial.create_trial(
                        params=dict(observation.params),
                        distributions=dict(observation.distributions),
                        values=[miou, *observation.costs],
                    )
                )
        asked = shadow.ask(dict(self.table.distributions))
        self.searcher.study.enqueue_trial(asked.params)
        return super().suggest(job, taken)


def earlier_study(table: Table, count: int, seed: int) -> list[Observation]:
    """What a study of random trials, trained to their end, would have left."""
    finished = [row for row, curve in enumerate(table.curves) if not curve.failed]
    rows = np.random.default_rng(seed).choice(finished, count, replace=False)
    return [
        Observation(
            table.points[row].params,
            table.points[row].distributions,
            (float(table.curves[row].costs.size_bytes),),
            {},
            table.curves[row].miou[-1] - EARLIER_LEVEL,
        )
        for row in rows
    ]


def metrics_of(curve: Curve, epoch: int) -> str:
    """What a trainable would report."""
    last = epoch == len(curve.miou) and not curve.failed
    return Metrics(
        epoch=epoch,
        time_ms=0,
        losses={},
        miou=curve.miou[epoch - 1],
        pixel_accuracy=0.0,
        size_bytes=curve.costs.size_bytes if last else None,
        predicted_size_bytes=curve.costs.size_bytes,
        num_params=0,
        macs=curve.costs.macs,
        device_seconds=curve.seconds[epoch - 1],
        start_seconds=0.0,
    ).model_dump_json()


class PlainOptuna:
    """Optuna's ask and tell, every trial trained to its end."""

    def __init__(self, table: Table, sampler: BaseSampler) -> None:
        self.table = table
        self.study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
        self.trials: dict[str, optuna.Trial] = {}

    def suggest(self, job: str, taken: set[int]) -> int | None:
        self.trials[job] = self.study.ask()
        return self.table.nearest(self.table.params_of(self.trials[job]), taken)

    def report(self, job: str, curve: Curve, epoch: int) -> bool:
        return True

    def complete(self, job: str, curve: Curve) -> None:
        if curve.failed:
            self.study.tell(self.trials[job], state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(self.trials[job], [curve.miou[-1], curve.costs.size_bytes])


class TuneOptunaAsha:
    """Ray Tune's OptunaSearch on both objectives, its ASHA on mIoU."""

    def __init__(self, table: Table, seed: int) -> None:
        self.table = table
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.search = OptunaSearch(
                space=dict(table.distributions),
                metric=["miou", "size_bytes"],
                mode=["max", "min"],
                seed=seed,
                study_name=f"tune-{seed}",
            )
        self.scheduler = AsyncHyperBandScheduler(
            metric="miou", mode="max", max_t=table.num_epochs, reduction_factor=REDUCTION
        )

    def suggest(self, job: str, taken: set[int]) -> int | None:
        params = self.search.suggest(job)
        assert params is not None
        self.scheduler.on_trial_add(NOBODY, self._trial(job))
        return self.table.nearest(params, taken)

    def report(self, job: str, curve: Curve, epoch: int) -> bool:
        result = self._result(curve, epoch)
        if self.scheduler.on_trial_result(NOBODY, self._trial(job), result) == TrialScheduler.STOP:
            self.search.on_trial_complete(job, result)
            return False
        self.search.on_trial_result(job, result)
        return True

    def complete(self, job: str, curve: Curve) -> None:
        result = self._result(curve, len(curve.miou))
        self.scheduler.on_trial_complete(NOBODY, self._trial(job), result)
        self.search.on_trial_complete(job, None if curve.failed else result, error=curve.failed)

    def _trial(self, job: str) -> Any:
        return SimpleNamespace(trial_id=job)

    def _result(self, curve: Curve, epoch: int) -> dict[str, float]:
        return {
            "training_iteration": epoch,
            "miou": curve.miou[epoch - 1],
            "size_bytes": curve.costs.size_bytes,
        }


class SyneTuneMoasha:
    """Syne Tune's MO-ASHA: random proposals, halving by non-dominated sorting."""

    def __init__(self, table: Table, seed: int) -> None:
        from syne_tune.config_space import uniform
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

        self.table = table
        np.random.seed(seed)  # which its brackets and domains draw from
        self.scheduler = MOASHA(
            {name: uniform(0, 1) for name in table.distributions},
            metrics=["miou", "size_bytes"],
            time_attr="epoch",
            max_t=table.num_epochs,
            grace_period=1,
            reduction_factor=REDUCTION,
            random_seed=seed,
        )

    def suggest(self, job: str, taken: set[int]) -> int | None:
        places = self.scheduler.suggest().config
        self.scheduler.on_trial_add(self._trial(job))
        place = np.array([places[name] for name in self.table.distributions])
        return self.table.nearest_place(place, taken)

    def report(self, job: str, curve: Curve, epoch: int) -> bool:
        answer = self.scheduler.on_trial_result(self._trial(job), self._result(curve, epoch))
        return str(answer) == "CONTINUE"

    def complete(self, job: str, curve: Curve) -> None:
        if not curve.failed:
            self.scheduler.on_trial_complete(self._trial(job), self._result(curve, len(curve.miou)))

    def _trial(self, job: str) -> Any:
        return SimpleNamespace(trial_id=job)

    def _result(self, curve: Curve, epoch: int) -> dict[str, float]:
        # One direction for all metrics: less is better
        return {
            "epoch": epoch,
            "miou": -curve.miou[epoch - 1],
            "size_bytes": curve.costs.size_bytes,
        }


def tpe(seed: int) -> TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(multivariate=True, constant_liar=True, seed=seed)


METHODS: dict[str, Callable[[Table, int], Method]] = {
    "random": lambda table, seed: PlainOptuna(table, optuna.samplers.RandomSampler(seed=seed)),
    "Optuna TPE": lambda table, seed: PlainOptuna(table, tpe(seed)),
    "Optuna NSGA-II": lambda table, seed: PlainOptuna(table, NSGAIISampler(seed=seed)),
    "Tune OptunaSearch + ASHA": TuneOptunaAsha,
    "Syne Tune MO-ASHA": SyneTuneMoasha,
    "halving alone": lambda table, seed: Ours(
        table, seed, "random", CONFIDENCE_WIDTH, priors=False
    ),
    "confidence width 0 alone": lambda table, seed: Ours(table, seed, "random", 0, priors=False),
    "sampler alone": lambda table, seed: Ours(table, seed, "ehvi", None, priors=False),
    "priors alone": lambda table, seed: Ours(table, seed, "random", None, priors=True),
    "sampler + priors": lambda table, seed: Ours(table, seed, "ehvi", None, priors=True),
    "halving + TPE": lambda table, seed: Ours(table, seed, "tpe", CONFIDENCE_WIDTH, priors=False),
    "halving + extrapolating TPE": ExtrapolatingTpe,
    "halving + sampler": lambda table, seed: Ours(
        table, seed, "ehvi", CONFIDENCE_WIDTH, priors=False
    ),
    "confidence width 0 + sampler": lambda table, seed: Ours(table, seed, "ehvi", 0, priors=False),
    "confidence width 2 + sampler": lambda table, seed: Ours(table, seed, "ehvi", 2, priors=False),
    "warm start": lambda table, seed: Ours(
        table, seed, "ehvi", CONFIDENCE_WIDTH, False, num_earlier=30
    ),
    "all (default)": lambda table, seed: Ours(table, seed, "ehvi", CONFIDENCE_WIDTH, priors=True),
}
