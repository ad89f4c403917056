"""Who proposes trials: expected hypervolume improvement, or one of Optuna's samplers."""

import warnings
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from search.drawing import Params
from trainables.frozen import digest

SamplerName = Literal["ehvi", "tpe", "nsga2", "random"]


def make_seed(seed: int, trial_number: int) -> int:
    """A trial's own seed, by the study's and the number of trials asked before.

    So a resumed study does not draw again what it has drawn.
    """
    return int(digest([seed, trial_number])[:7], 16)


def make_sampler(name: SamplerName, seed: int, planned: Params) -> BaseSampler:
    """The sampler for one trial, with its own seed; `planned` is what "ehvi" proposes."""
    match name:
        case "ehvi":
            return PlannedSampler(planned, seed)
        case "tpe":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return TPESampler(multivariate=True, constant_liar=True, seed=seed)
        case "nsga2":
            return NSGAIISampler(seed=seed)
        case "random":
            return RandomSampler(seed=seed)


class PlannedSampler(RandomSampler):
    """Gives parameters their planned values, and random ones to the others."""

    def __init__(self, planned: Params, seed: int) -> None:
        super().__init__(seed)
        self.planned = planned

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        if name in self.planned:
            return self.planned[name]
        return super().sample_independent(study, trial, name, distribution)
