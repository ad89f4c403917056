"""The configuration of a comparison of recipes, and the flags that set it."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from search.core.config import HOW, WHAT, WHERE, StudyConfig
from search.core.recipe_list import ComparedRecipe, parse_compared_students, parse_recipe
from trainables.core import units
from trainables.core.config_base import FrozenConfig, digest
from trainables.core.flags import Flag, field_of, flags_of
from trainables.data.configs import AugmentationName
from trainables.losses.configs import Balance, LabelLossConfig, Overlap
from trainables.models.configs import StudentConfig
from trainables.teachers.averaging import Flip, check_seeds

COMPARE = "what to compare"
"""A group of flags in the help."""
COMPARED = (
    *("recipes", "data", "image_size", "students", "epochs", "teacher", "teacher_outputs"),
    *("teacher_size", "teacher_seeds", "teacher_flip"),
    *("class_weights", "overlap_loss", "augmentation", "ema_decay"),
)
"""Fields that say what is compared: two comparisons that differ in one of them are not the same."""


def as_in_a_study(field: str) -> Any:
    """The flag, the limits and the default of a field of `StudyConfig`, for a field of its name."""
    group = flags_of(StudyConfig)[field].group
    return field_of(StudyConfig, field, group=COMPARE if group == WHAT else group)


class ComparisonConfig(FrozenConfig):
    """The configuration of a comparison, stored in comparison.json; fields are its flags."""

    recipes: Annotated[
        tuple[ComparedRecipe, ...],
        Field(min_length=2),
        Flag(
            COMPARE,
            "the reference first, then those that are compared with it: supervised, distill, qat, "
            "qat_distill, ptq, or a configuration file such as a front member's config.json, with "
            'its own student. "kd=distill losses.pixelwise.weight=3" gives a name and changes',
            units.Unit("RECIPE", parse_recipe),
            several=True,
        ),
    ]
    students: Annotated[
        tuple[SerializeAsAny[StudentConfig], ...],
        Field(min_length=1),
        Flag(
            COMPARE,
            "the students that recipes without a file are compared on, as search.run has them, "
            'with changes where wanted, as "unet width=8,unet_mobilenet_v2" (default: those of '
            "the files, else unet)",
            units.Unit("LIST", parse_compared_students),
        ),
    ]
    data: str = as_in_a_study("data")
    image_size: int = as_in_a_study("image_size")
    teacher: str = as_in_a_study("teacher")
    teacher_size: int | None = as_in_a_study("teacher_size")
    teacher_seeds: int = as_in_a_study("teacher_seeds")
    teacher_flip: Flip = as_in_a_study("teacher_flip")
    teacher_outputs: Annotated[
        Literal["auto", "live", "maps"],
        Flag(
            COMPARE,
            "live: the teacher runs at every step; maps: what it says of each image is computed "
            "once and kept (default {default}: maps, or live where a term or the disk needs it)",
        ),
    ] = "auto"
    steps: Annotated[
        int | None,
        Field(ge=1),
        Flag(
            HOW,
            "optimizer steps of each student's training, the start of quantized ones included "
            "(default: those of the longest file; else shapes 768, on a GPU 24000, on a CPU 6000)",
            units.INTEGER,
        ),
    ] = None
    epochs: Annotated[
        int,
        Field(ge=1),
        Flag(
            HOW,
            "the same in passes over the training images, in place of --steps",
            units.INTEGER,
        ),
    ]
    unlabelled: Path | None = as_in_a_study("unlabelled")
    class_weights: Balance = as_in_a_study("class_weights")
    overlap_loss: Overlap = as_in_a_study("overlap_loss")
    augmentation: AugmentationName | None = as_in_a_study("augmentation")
    ema_decay: float = as_in_a_study("ema_decay")
    seeds: Annotated[
        int,
        Field(ge=1, le=1000),
        Flag(
            HOW,
            "trainings of each recipe: seeds 0, 1, ... set weights, data order and augmentation "
            "(default: {default})",
            units.INTEGER,
        ),
    ] = 3
    trial_timeout_s: float = as_in_a_study("trial_timeout_s")
    checkpoint_every_s: float = as_in_a_study("checkpoint_every_s")
    storage: Path = as_in_a_study("storage")
    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"),
        Flag(
            WHERE,
            "name of the comparison (default: compare-DATA- and a digest of what is compared)",
            units.NAME,
        ),
    ]
    cpus_per_trial: PositiveFloat | None = as_in_a_study("cpus_per_trial")
    gpus_per_trial: NonNegativeFloat | Literal["auto"] = as_in_a_study("gpus_per_trial")
    tracking_uri: str = as_in_a_study("tracking_uri")

    @field_validator("recipes")
    @classmethod
    def check_names(cls, recipes: tuple[ComparedRecipe, ...]) -> tuple[ComparedRecipe, ...]:
        names = [recipe.name for recipe in recipes]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"each must have its own name, as NAME={twice[0]}")
        return recipes

    @model_validator(mode="after")
    def check_teacher_seeds(self) -> "ComparisonConfig":
        check_seeds(self.teacher_seeds, is_trained_here=self.teacher == "auto")
        return self

    @property
    def label_loss(self) -> LabelLossConfig:
        """The loss on labels of all its trainings, but for those of files."""
        return LabelLossConfig(class_weights=self.class_weights, overlap=self.overlap_loss)

    @property
    def identity(self) -> str:
        """A digest of what is compared, without the number of seeds."""
        fields = {*COMPARED, *(("unlabelled",) if self.unlabelled else ())}  # as before, if none
        return digest(self.model_dump(mode="json", include=fields))

    @property
    def folder(self) -> Path:
        """The folder of the comparison."""
        return self.storage / self.name

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The type of device that trainings run on."""
        return "cuda" if self.gpus_per_trial else "cpu"

    @property
    def max_gpus_per_trial(self) -> float:
        """The GPUs of a training as long as its memory has not been measured."""
        return 1.0 if self.gpus_per_trial == "auto" else self.gpus_per_trial
