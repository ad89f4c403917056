"""Quantized students, 2 to 8 bits, that start distilled and learn from the teacher (QAT and KD)."""

import optuna

from spaces import LEARNING_RATE, U_NETS, Students
from spaces._parts import (
    ACTIVATION_BITS,
    EXTRA,
    PIXEL,
    WEIGHT_BITS,
    WIDTH,
    suggest_adamw,
    suggest_losses,
    suggest_lsq,
    suggest_step_rates,
    suggest_student,
)
from trainables.config import TrialConfig
from trainables.recipes.configs import DISTILLED, QatDistill

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
    return TrialConfig(
        student=suggest_student(trial, students),
        recipe=QatDistill(
            optimizer=suggest_adamw(trial, 5e-4, 1e-2, students),
            step_learning_rate=suggest_step_rates(trial),
            quantizer=suggest_lsq(trial),
            start=DISTILLED,
            schedule="cosine",
            losses=suggest_losses(trial),
            self_study=trial.suggest_float("recipe.self_study", 0.0, 0.4),
            co_study=trial.suggest_float("recipe.co_study", 0.0, 0.5) if co_study else 0.0,
        ),
    )
