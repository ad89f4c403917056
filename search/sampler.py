"""Optuna's samplers, seeded anew for every trial."""

import warnings
from typing import Literal

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from trainables.frozen import digest

SamplerName = Literal["tpe", "nsga2", "random"]


def make_sampler(name: SamplerName, seed: int, trial_number: int) -> BaseSampler:
    """The sampler for one trial.

    Its seed depends on the study's seed and the number of trials asked before, so that a resumed
    study does not draw again what it has drawn.
    """
    own_seed = int(digest([seed, trial_number])[:7], 16)
    match name:
        case "tpe":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return TPESampler(multivariate=True, constant_liar=True, seed=own_seed)
        case "nsga2":
            return NSGAIISampler(seed=own_seed)
        case "random":
            return RandomSampler(seed=own_seed)
