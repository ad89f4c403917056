"""Distilled quantized students with bits of their own for every layer (`mixed` and `qkd`)."""

import optuna

from spaces import LEARNING_RATE, U_NETS, Students
from spaces._parts import (
    ACTIVATION_BITS,
    DECODER,
    ENCODER,
    EXTRA,
    PIXEL,
    WEIGHT_BITS,
    WIDTH,
    suggest_adamw,
    suggest_losses,
    suggest_mixed_precision,
    suggest_step_rates,
    suggest_student,
)
from trainables.config import TrialConfig
from trainables.recipes.configs import DISTILLED, QatDistill

# Mean bits as in `mixed`, distilled without softening
points_to_evaluate = [
    {
        WIDTH: 8,
        WEIGHT_BITS: weights,
        ACTIVATION_BITS: activations,
        ENCODER: 0,
        DECODER: 0,
        f"{PIXEL}.weight": 1.0,
        f"{PIXEL}.temperature": 1.0,
        f"{EXTRA}.name": None,
        LEARNING_RATE: 1e-3,
    }
    for weights, activations in ((6.0, 8.0), (4.0, 8.0), (2.5, 8.0))
]


def space(trial: optuna.Trial, students: Students = U_NETS) -> TrialConfig:
    """Width, mean bits and how parts depart from their allocation, learning rates and terms."""
    return TrialConfig(
        student=suggest_student(trial, students),
        recipe=QatDistill(
            optimizer=suggest_adamw(trial, 5e-4, 1e-2, students),
            step_learning_rate=suggest_step_rates(trial),
            quantizer=suggest_mixed_precision(trial),
            start=DISTILLED,
            schedule="cosine",
            losses=suggest_losses(trial),
            self_study=0.0,
        ),
    )
