"""Full-precision students of several sizes, trained on labels alone."""

import optuna

from spaces import U_NETS, Students
from spaces._parts import suggest_adamw, suggest_student
from trainables.config import TrialConfig
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import Supervised

points_to_evaluate = [
    {"student.width": width, "student.depth": depth, "recipe.optimizer.learning_rate": 4e-3}
    for width, depth in ((8, 4), (12, 3), (4, 3))
]


def space(trial: optuna.Trial, students: Students = U_NETS) -> TrialConfig:
    """Width, depth of U-Nets, learning rate and weight decay."""
    student = suggest_student(trial, students)
    if isinstance(student, UNetConfig):
        student = student.replace(depth=trial.suggest_int("student.depth", 2, 4))
    optimizer = suggest_adamw(trial, 1e-3, 1e-2, students)
    decay = trial.suggest_float("recipe.optimizer.weight_decay", 1e-4, 1e-1, log=True)
    return TrialConfig(
        student=student, recipe=Supervised(optimizer=optimizer.replace(weight_decay=decay))
    )
