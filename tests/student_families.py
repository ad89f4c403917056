"""The students of every family, for tests that each of them must pass."""

from collections.abc import Sequence

import pytest
from foreign_networks import traced_student

from trainables.core.optional_dependencies import has_timm
from trainables.models.configs import EncoderDecoderConfig, StudentConfig
from trainables.models.student_list import listed_families


def smallest(name: str, family: type[StudentConfig]) -> StudentConfig:
    """The student of this name; narrow where it has a backbone, since its size changes nothing."""
    student = family.model_validate({"name": name})
    if isinstance(student, EncoderDecoderConfig):
        narrow = 0.25 if student.has_multiplier else 1
        return student.replace(channels=16, multiplier=narrow)
    return student


STUDENTS = [smallest(name, family) for name, family in listed_families().items()]
STUDENTS.append(traced_student())
SOON = (
    "unet",
    "unet_mobilenet_v2",
    "deeplabv3_mobilenet_v1",
    "lraspp_mobilenet_v3_small",
    "traced",
)
"""Each decoder and each kind of block once; other pairs of the two are slow tests."""


def marks_of(student: StudentConfig) -> list[pytest.MarkDecorator]:
    needs_timm = pytest.mark.skipif(not has_timm(), reason="timm is not installed")
    needs = [needs_timm] if "lite0" in student.name else []
    return needs if student.name in SOON else [*needs, pytest.mark.slow]


def parametrized(students: Sequence[StudentConfig]) -> pytest.MarkDecorator:
    cases = [
        pytest.param(student, id=student.name, marks=marks_of(student)) for student in students
    ]
    return pytest.mark.parametrize("student", cases)


every_student = parametrized(STUDENTS)
