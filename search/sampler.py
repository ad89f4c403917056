"""Who proposes trials: expected hypervolume improvement, or one of Optuna's samplers."""

import warnings
from typing import Literal

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from trainables.frozen import digest

SamplerName = Literal["ehvi", "tpe", "nsga2", "random"]


def make_seed(seed: int, trial_number: int) -> int:
    """A trial's own seed, by the study's and its number.

    So a resumed study does not draw again what it has drawn.
    """
    return int(digest([seed, trial_number])[:7], 16)


def make_sampler(name: SamplerName, seed: int) -> BaseSampler:
    """The sampler for one trial, with its own seed; of "ehvi", for what it does not propose."""
    match name:
        case "tpe":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return TPESampler(multivariate=True, constant_liar=True, seed=seed)
        case "nsga2":
            return NSGAIISampler(seed=seed)
        case "ehvi" | "random":
            return RandomSampler(seed=seed)
