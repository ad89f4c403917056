"""Quantized students, 2 to 8 bits, that start distilled and learn from the teacher (QAT and KD)."""

import optuna

from spaces import LEARNING_RATE, U_NETS, Students
from spaces._parts import (
    ACTIVATION_BITS,
    EXTRA,
    PIXEL,
    WEIGHT_BITS,
    WIDTH,
    suggest_qat_distill,
)
from trainables.config import TrialConfig

# Kim et al. 2019: T = 2, equal weights, self-study first; at three bit-widths
points_to_evaluate = [
    {
        WIDTH: 8,
        WEIGHT_BITS: weights,
        ACTIVATION_BITS: activations,
        f"{PIXEL}.weight": 1.0,
        f"{PIXEL}.temperature": 2.0,
        f"{EXTRA}.name": None,
        "recipe.self_study": 0.15,
        LEARNING_RATE: 1e-3,
    }
    for weights, activations in ((8, 8), (4, 4), (2, 4))
]


def space(trial: optuna.Trial, students: Students = U_NETS, co_study: bool = False) -> TrialConfig:
    """Width, bit-widths, learning rates, distillation terms, their weights, and phases.

    In QKD's co-study, which needs a live teacher, it learns from its student.
    """
    return suggest_qat_distill(trial, students).with_recipe(
        self_study=trial.suggest_float("recipe.self_study", 0.0, 0.4),
        co_study=trial.suggest_float("recipe.co_study", 0.0, 0.5) if co_study else 0.0,
    )
