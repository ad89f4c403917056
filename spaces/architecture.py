"""Quantized students of many families: network, width and bit-widths together, by labels alone."""

import optuna

from spaces import STUDENT, Students
from spaces._parts import ACTIVATION_BITS, WEIGHT_BITS, WIDTH, suggest_qat
from trainables.config import TrialConfig
from trainables.models.student_list import parse_students

FAMILIES = parse_students(
    "unet,unet_mobilenet_v1,unet_mobilenet_v2,unet_mobilenet_v3_small,deeplabv3_mobilenet_v1,"
    "deeplabv3_mobilenet_v2,deeplabv3_mobilenet_v3_small,lraspp_mobilenet_v3_small"
)

points_to_evaluate = [
    {STUDENT: "unet", WIDTH: 8, WEIGHT_BITS: weights, ACTIVATION_BITS: activations}
    for weights, activations in ((4, 8), (8, 8), (3, 4))
]


def space(trial: optuna.Trial, students: Students = FAMILIES) -> TrialConfig:
    """Family, its width, bit-widths and learning rates."""
    return suggest_qat(trial, 3e-4, students)
