"""Quantized students with bits of their own for every layer, from labels alone."""

import optuna

from spaces import U_NETS, Students
from spaces._parts import (
    ACTIVATION_BITS,
    DECODER,
    ENCODER,
    WEIGHT_BITS,
    WIDTH,
    suggest_adamw,
    suggest_mixed_precision,
    suggest_step_rates,
    suggest_student,
)
from trainables.config import TrialConfig
from trainables.recipes.configs import Qat

# As they are allocated; the means are those of the other spaces' known settings
points_to_evaluate = [
    {WIDTH: 8, WEIGHT_BITS: w, ACTIVATION_BITS: a, ENCODER: 0, DECODER: 0}
    for w, a in ((6.0, 8.0), (4.0, 4.0), (2.5, 4.0))
]


def space(trial: optuna.Trial, students: Students = U_NETS) -> TrialConfig:
    """Width, mean bits and how parts depart from their allocation, and learning rates."""
    return TrialConfig(
        student=suggest_student(trial, students),
        recipe=Qat(
            optimizer=suggest_adamw(trial, 5e-4, 1e-2, students),
            step_learning_rate=suggest_step_rates(trial),
            schedule="cosine",
            quantizer=suggest_mixed_precision(trial),
        ),
    )
