"""Quantized students with bits of their own for every layer, from labels alone."""

import optuna

from spaces import U_NETS, Students
from spaces._parts import (
    ACTIVATION_BITS,
    WEIGHT_BITS,
    WIDTH,
    suggest_adamw,
    suggest_step_rates,
    suggest_student,
)
from trainables.config import TrialConfig
from trainables.quantization.quantizers.configs import MixedPrecision
from trainables.recipes.configs import Qat

PATH = "recipe.quantizer"

# As they are allocated; the means are those of the other spaces' known settings
points_to_evaluate = [
    {WIDTH: 8, WEIGHT_BITS: w, ACTIVATION_BITS: a, f"{PATH}.encoder": 0, f"{PATH}.decoder": 0}
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
            quantizer=MixedPrecision(
                weight_bits=trial.suggest_float(WEIGHT_BITS, 2, 6),
                activation_bits=trial.suggest_float(ACTIVATION_BITS, 3, 8),
                encoder=trial.suggest_int(f"{PATH}.encoder", -1, 1),
                decoder=trial.suggest_int(f"{PATH}.decoder", -1, 1),
            ),
        ),
    )
