"""The ways to train a student."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from trainables.recipes.base import Batch, Epoch, MeanLosses, Stateful, Task, TeacherOutputSource
from trainables.recipes.distill import Distill, train_distill
from trainables.recipes.ptq import Ptq, train_ptq
from trainables.recipes.qat import Qat, train_qat
from trainables.recipes.qat_distill import QatDistill, train_qat_distill
from trainables.recipes.supervised import Supervised, train_supervised

__all__ = [
    "Batch",
    "Distill",
    "Epoch",
    "MeanLosses",
    "Ptq",
    "Qat",
    "QatDistill",
    "Quantized",
    "Recipe",
    "Stateful",
    "Supervised",
    "Task",
    "TeacherOutputSource",
    "train",
]

Quantized = Ptq | Qat | QatDistill
"""Recipes that start from a full-precision student and quantize it."""
Recipe = Annotated[Supervised | Distill | Quantized, Field(discriminator="name")]


def train(recipe: Recipe, task: Task) -> Iterator[Epoch]:
    """Follows `recipe`, yielding the student after each epoch."""
    match recipe:
        case Supervised():
            return train_supervised(recipe, task)
        case Distill():
            return train_distill(recipe, task)
        case Ptq():
            return train_ptq(recipe, task)
        case Qat():
            return train_qat(recipe, task)
        case QatDistill():
            return train_qat_distill(recipe, task)
