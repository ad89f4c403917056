"""Full-precision U-Nets distilled pixel-wise and pair-wise from the teacher."""

import optuna

from trainables.config import TrialConfig
from trainables.losses import DistillationLosses
from trainables.losses.pairwise import Pairwise
from trainables.losses.pixelwise import Pixelwise
from trainables.models.unet import UNetConfig
from trainables.recipes import Distill
from trainables.recipes.optimization import AdamW

PIXEL, PAIR = "recipe.losses.pixelwise", "recipe.losses.pairwise"

# Hinton et al. 2015 (T = 2, equal weights); Liu et al. 2019 (weight 10, T = 1)
known_settings = [
    {
        "student.width": 8,
        f"{PIXEL}.weight": 1.0,
        f"{PIXEL}.temperature": 2.0,
        f"{PAIR}.weight": 1.0,
    },
    {
        "student.width": 8,
        f"{PIXEL}.weight": 10.0,
        f"{PIXEL}.temperature": 1.0,
        f"{PAIR}.weight": 1.0,
    },
    {
        "student.width": 4,
        f"{PIXEL}.weight": 1.0,
        f"{PIXEL}.temperature": 2.0,
        f"{PAIR}.weight": 1.0,
    },
]


def space(trial: optuna.Trial) -> TrialConfig:
    """Width, learning rate, and the weights and the temperature of the distillation terms."""
    return TrialConfig(
        student=UNetConfig(width=trial.suggest_categorical("student.width", [4, 6, 8, 12])),
        recipe=Distill(
            optimizer=AdamW(
                learning_rate=trial.suggest_float(
                    "recipe.optimizer.learning_rate", 1e-3, 1e-2, log=True
                )
            ),
            losses=DistillationLosses(
                pixelwise=Pixelwise(
                    weight=trial.suggest_float(f"{PIXEL}.weight", 0.1, 10, log=True),
                    temperature=trial.suggest_float(f"{PIXEL}.temperature", 1, 8, log=True),
                ),
                pairwise=Pairwise(weight=trial.suggest_float(f"{PAIR}.weight", 0.1, 10, log=True)),
            ),
        ),
    )
