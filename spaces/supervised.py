"""Full-precision U-Nets of several widths and depths, trained on labels alone."""

import optuna

from trainables.config import TrialConfig
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import AdamW, Supervised

points_to_evaluate = [
    {"student.width": width, "student.depth": depth, "recipe.optimizer.learning_rate": 4e-3}
    for width, depth in ((8, 4), (12, 3), (4, 3))
]


def space(trial: optuna.Trial) -> TrialConfig:
    """Width, depth, learning rate and weight decay."""
    return TrialConfig(
        student=UNetConfig(
            width=trial.suggest_categorical("student.width", [4, 6, 8, 12]),
            depth=trial.suggest_int("student.depth", 2, 4),
        ),
        recipe=Supervised(
            optimizer=AdamW(
                learning_rate=trial.suggest_float(
                    "recipe.optimizer.learning_rate", 1e-3, 1e-2, log=True
                ),
                weight_decay=trial.suggest_float(
                    "recipe.optimizer.weight_decay", 1e-4, 1e-1, log=True
                ),
            )
        ),
    )
