"""Full-precision students distilled pixel-wise and pair-wise from the teacher."""

import optuna

from spaces import U_NETS, Students
from spaces._parts import PAIR, PIXEL, WIDTH, suggest_adamw, suggest_losses, suggest_student
from trainables.config import TrialConfig
from trainables.recipes.configs import Distill

# Hinton et al. 2015 (T = 2, equal weights); Liu et al. 2019 (weight 10, T = 1)
points_to_evaluate = [
    {WIDTH: width, f"{PIXEL}.weight": weight, f"{PIXEL}.temperature": t, f"{PAIR}.weight": 1.0}
    for width, weight, t in ((8, 1.0, 2.0), (8, 10.0, 1.0), (4, 1.0, 2.0))
]


def space(trial: optuna.Trial, students: Students = U_NETS) -> TrialConfig:
    """Width, learning rate, and the weights and the temperature of the distillation terms."""
    return TrialConfig(
        student=suggest_student(trial, students),
        recipe=Distill(
            optimizer=suggest_adamw(trial, 1e-3, 1e-2, students), losses=suggest_losses(trial)
        ),
    )
