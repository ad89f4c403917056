"""Quantized students, 2 to 8 bits, trained from converged ones on labels alone."""

import optuna

from spaces import LEARNING_RATE, U_NETS, Students
from spaces._parts import ACTIVATION_BITS, WEIGHT_BITS, WIDTH, suggest_qat
from trainables.config import TrialConfig

# W8A8, W4A4 and W2A4, the points that the literature reports
points_to_evaluate = [
    {WIDTH: 8, WEIGHT_BITS: weights, ACTIVATION_BITS: activations, LEARNING_RATE: 1e-3}
    for weights, activations in ((8, 8), (4, 4), (2, 4))
]


def space(trial: optuna.Trial, students: Students = U_NETS) -> TrialConfig:
    """Width, bit-widths, and learning rates of weights and steps."""
    return suggest_qat(trial, 5e-4, students)
