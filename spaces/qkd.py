"""Quantized U-Nets, 2 to 8 bits, that learn from the teacher in QKD's three phases."""

import optuna

from trainables.config import TrialConfig
from trainables.losses import DistillationLosses
from trainables.losses.pairwise import Pairwise
from trainables.losses.pixelwise import Pixelwise
from trainables.models.unet import UNetConfig
from trainables.quant.prepare import Lsq
from trainables.recipes import QatDistill
from trainables.recipes.optimization import AdamW, StepRates

PIXEL, PAIR = "recipe.losses.pixelwise", "recipe.losses.pairwise"
WEIGHT_BITS, ACTIVATION_BITS = (
    "recipe.quantizer.weight_bits",
    "recipe.quantizer.activation_bits",
)

# Kim et al. 2019: T = 2, equal weights, phases of 30/100/70 epochs; at three bit-widths
known_settings = [
    {
        "student.width": 8,
        WEIGHT_BITS: weights,
        ACTIVATION_BITS: activations,
        f"{PIXEL}.weight": 1.0,
        f"{PIXEL}.temperature": 2.0,
        "recipe.self_study": 0.15,
        "recipe.co_study": 0.5,
    }
    for weights, activations in ((8, 8), (4, 4), (2, 4))
]


def space(trial: optuna.Trial) -> TrialConfig:
    """Width, bit-widths, learning rates, distillation weights, temperature and phases."""
    return TrialConfig(
        student=UNetConfig(width=trial.suggest_categorical("student.width", [4, 6, 8, 12])),
        recipe=QatDistill(
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
            losses=DistillationLosses(
                pixelwise=Pixelwise(
                    weight=trial.suggest_float(f"{PIXEL}.weight", 0.1, 10, log=True),
                    temperature=trial.suggest_float(f"{PIXEL}.temperature", 1, 8, log=True),
                ),
                pairwise=Pairwise(weight=trial.suggest_float(f"{PAIR}.weight", 0.01, 10, log=True)),
            ),
            self_study=trial.suggest_float("recipe.self_study", 0.0, 0.4),
            co_study=trial.suggest_float("recipe.co_study", 0.0, 0.5),
        ),
    )
