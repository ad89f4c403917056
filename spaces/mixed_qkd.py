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
    suggest_mixed_precision,
    suggest_qat_distill,
)
from trainables.config import TrialConfig

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
    return suggest_qat_distill(trial, students, suggest_mixed_precision)
