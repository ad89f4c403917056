"""Quantized students, 2 to 8 bits, calibrated but not trained: what training has to beat."""

import optuna

from spaces import U_NETS, Students
from spaces._parts import ACTIVATION_BITS, WEIGHT_BITS, WIDTH, suggest_lsq, suggest_student
from trainables.config import TrialConfig
from trainables.recipes.configs import Ptq

points_to_evaluate = [
    {WIDTH: 8, WEIGHT_BITS: weights, ACTIVATION_BITS: activations}
    for weights, activations in ((8, 8), (4, 8), (4, 4))
]


def space(trial: optuna.Trial, students: Students = U_NETS) -> TrialConfig:
    """Width and bit-widths."""
    return TrialConfig(
        student=suggest_student(trial, students),
        recipe=Ptq(quantizer=suggest_lsq(trial)),
        num_epochs=1,
    )
