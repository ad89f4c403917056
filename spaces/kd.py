"""Full-precision students distilled pixel-wise, and pair-wise or channel-wise, from the teacher."""

import optuna

from spaces import U_NETS, Students
from spaces._parts import EXTRA, PIXEL, WIDTH, suggest_adamw, suggest_losses, suggest_student
from trainables.config import TrialConfig
from trainables.recipes.configs import Distill

# Hinton et al. 2015 (T = 2, equal weights), and without softening
points_to_evaluate = [
    {WIDTH: width, f"{PIXEL}.weight": 1.0, f"{PIXEL}.temperature": t, f"{EXTRA}.name": None}
    for width, t in ((8, 2.0), (8, 1.0), (4, 2.0))
]


def space(trial: optuna.Trial, students: Students = U_NETS) -> TrialConfig:
    """Width, learning rate, and the distillation terms with their weights and a temperature."""
    return TrialConfig(
        student=suggest_student(trial, students),
        recipe=Distill(
            optimizer=suggest_adamw(trial, 1e-3, 1e-2, students), losses=suggest_losses(trial)
        ),
    )
