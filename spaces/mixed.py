"""Quantized students with bits of their own for every layer, from labels alone."""

import optuna

from spaces import LEARNING_RATE, U_NETS, Students
from spaces._parts import (
    ACTIVATION_BITS,
    DECODER,
    ENCODER,
    WEIGHT_BITS,
    WIDTH,
    suggest_mixed_precision,
    suggest_qat,
)
from trainables.config import TrialConfig

# As they are allocated; the means are those of the other spaces' known settings
points_to_evaluate = [
    {WIDTH: 8, WEIGHT_BITS: w, ACTIVATION_BITS: a, ENCODER: 0, DECODER: 0, LEARNING_RATE: 1e-3}
    for w, a in ((6.0, 8.0), (4.0, 4.0), (2.5, 4.0))
]


def space(trial: optuna.Trial, students: Students = U_NETS) -> TrialConfig:
    """Width, mean bits and how parts depart from their allocation, and learning rates."""
    return suggest_qat(trial, 5e-4, students, suggest_mixed_precision)
