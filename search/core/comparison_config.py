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

from search.core.config import HOW, WHAT, WHERE, StudyConfig, TeacherChoice
from search.core.networks import check_networks
from search.core.recipe_list import ComparedRecipe, parse_compared_students, parse_recipe
from trainables.core import units
from trainables.core.config_base import FrozenConfig, digest
from trainables.core.flags import Flag, default_values, field_of, flags_of
from trainables.data.configs import AugmentationName
from trainables.losses.configs import Balance, LabelLossConfig, Overlap
from trainables.models.configs import InputNormalizationName, StudentConfig
from trainables.models.student_list import write_students
from trainables.teachers.averaging import Flip

COMPARE = "what to compare"
"""A group of flags in the help."""
COMPARED = (
    *("recipes", "data", "image_size", "students", "epochs", "teacher", "teacher_outputs"),
    *("teacher_size", "teacher_seeds", "teacher_flip"),
    *("class_weights", "overlap_loss", "augmentation", "ema_decay"),
)
"""Fields that say what is compared: two comparisons that differ in one of them are not the same.

Students that were read from files are told apart by the hashes of their weights.
"""
ADDED = ("unlabelled", "teacher_builder", "teacher_normalization")
"""The same, but only where they are set, so that earlier comparisons are still themselves."""


def as_in_a_study(field: str, **changes: str) -> Any:
    """The flag, the limits and the default of a field of `StudyConfig`, for a field of its name.

    `changes` are those of the flag.
    """
    group = flags_of(StudyConfig)[field].group
    return field_of(StudyConfig, field, group=COMPARE if group == WHAT else group, **changes)


class ComparisonConfig(FrozenConfig):
    """The configuration of a comparison, stored in comparison.json; fields are its flags."""

    recipes: Annotated[
        tuple[ComparedRecipe, ...],
        Flag(
            COMPARE,
            "the reference first, then those that are compared with it: supervised, distill, qat, "
            "qat_distill, ptq, original (a network as it came), or a configuration file such as a "
            "front member's config.json, with its own student. "
            '"kd=distill losses.pixelwise.weight=3" gives a name and changes',
            units.Unit("RECIPE", parse_recipe, lambda recipe: str(recipe.name)),
            several=True,
        ),
    ]
    students: Annotated[
        tuple[SerializeAsAny[StudentConfig], ...],
        Field(min_length=1),
        Flag(
            COMPARE,
            "the students that recipes without a file are compared on, as search.run has them, "
            'with changes where wanted, as "unet width=8,unet_mobilenet_v2" (default: the network '
            "of --compress, or those of the files, else unet)",
            units.Unit("LIST", parse_compared_students, write_students),
        ),
    ]
    compress: str | None = as_in_a_study(
        "compress",
        help="a trained network, which is the first of the students: a model file, a state dict, "
        "or the name of a torchvision segmentation network; recipes begin from its weights, and it "
        "is the teacher where no other is given",
    )
    builder: str | None = as_in_a_study("builder")
    new_head: bool = as_in_a_study("new_head")
    allow_float: bool = as_in_a_study("allow_float")
    backbone_weights: tuple[Path, ...] | None = as_in_a_study("backbone_weights")
    pretrained_normalization: InputNormalizationName = as_in_a_study("pretrained_normalization")
    data: str = as_in_a_study("data")
    image_size: int = as_in_a_study("image_size")
    teacher: TeacherChoice = as_in_a_study("teacher")
    teacher_builder: str | None = as_in_a_study("teacher_builder")
    teacher_normalization: InputNormalizationName = as_in_a_study("teacher_normalization")
    teacher_size: int | None = as_in_a_study("teacher_size")
    teacher_seeds: int = as_in_a_study("teacher_seeds")
    teacher_flip: Flip = as_in_a_study("teacher_flip")
    teacher_outputs: Annotated[
        Literal["auto", "live", "maps"],
        Flag(
            COMPARE,
            "live: the teacher runs at every step; maps: what it says of each image is computed "
            "once and kept (default {default}: maps, or live where the disk is too small, a term "
            "or co-study needs it, or images are scaled much)",
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
    cache: Path | None = as_in_a_study("cache")
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
        if len(names) < 2:
            raise ValueError(
                "the reference must be followed by what is compared with it, but got "
                f"{' '.join(names) or 'nothing'} alone"
            )
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"each must have its own name, as NAME={twice[0]}, but got {twice[0]} twice"
            )
        return recipes

    @model_validator(mode="after")
    def check_combinations(self) -> "ComparisonConfig":
        check_networks(self)
        return self

    @property
    def label_loss(self) -> LabelLossConfig:
        """The loss on labels of all its trainings, but for those of files."""
        return LabelLossConfig(class_weights=self.class_weights, overlap=self.overlap_loss)

    @property
    def identity(self) -> str:
        """A digest of what is compared, without the number of seeds."""
        defaults = default_values(ComparisonConfig)
        added = {field for field in ADDED if getattr(self, field) != defaults[field]}
        return digest(self.model_dump(mode="json", include={*COMPARED, *added}))

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
