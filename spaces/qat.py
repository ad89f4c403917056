"""Quantized U-Nets, 2 to 8 bits, trained from converged ones on labels alone."""

import optuna

from trainables.config import TrialConfig
from trainables.models.unet import UNetConfig
from trainables.quant.prepare import Lsq
from trainables.recipes import Qat
from trainables.recipes.optimization import AdamW, StepRates

WEIGHT_BITS, ACTIVATION_BITS = (
    "recipe.quantizer.weight_bits",
    "recipe.quantizer.activation_bits",
)

# W8A8, W4A4 and W2A4, the points that the literature reports
known_settings = [
    {"student.width": 8, WEIGHT_BITS: weights, ACTIVATION_BITS: activations}
    for weights, activations in ((8, 8), (4, 4), (2, 4))
]


def space(trial: optuna.Trial) -> TrialConfig:
    """Width, bit-widths, and learning rates of weights and steps."""
    return TrialConfig(
        student=UNetConfig(width=trial.suggest_categorical("student.width", [4, 6, 8, 12])),
        recipe=Qat(
            optimizer=AdamW(
                learning_rate=trial.suggest_float(
                    "recipe.optimizer.learning_rate", 5e-4, 1e-2, log=True
                )
            ),
            step_learning_rate=StepRates(
                weight=trial.suggest_float(
                    "recipe.step_learning_rate.weight", 1e-4, 1e-2, log=True
                ),
                activation=trial.suggest_float(
                    "recipe.step_learning_rate.activation", 1e-3, 3e-2, log=True
                ),
            ),
            quantizer=Lsq(
                weight_bits=trial.suggest_int(WEIGHT_BITS, 2, 8),
                activation_bits=trial.suggest_int(ACTIVATION_BITS, 3, 8),
            ),
        ),
    )
