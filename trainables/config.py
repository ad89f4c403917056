"""The complete configuration of one trial, and of its execution."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from trainables.core.artifacts import present
from trainables.core.command_line import first_problem
from trainables.core.config_base import FrozenConfig, Leaf
from trainables.data.configs import Augmentation
from trainables.losses.configs import KEPT, LabelLossConfig, Term
from trainables.models.configs import DEFAULT_STUDENT, StudentConfig
from trainables.quantization.quantizers.base import Quantizer
from trainables.recipes.configs import Recipe

CHECKPOINT_EVERY_S = 10.0
"""Seconds of a training that a kill may cost where nothing else is said."""


class TrialConfig(FrozenConfig):
    """The configuration that, with data and teacher, determines a trained student."""

    student: SerializeAsAny[StudentConfig] = DEFAULT_STUDENT
    recipe: SerializeAsAny[Recipe]
    label_loss: LabelLossConfig = LabelLossConfig()
    augmentation: Augmentation = Augmentation()
    num_epochs: int = Field(60, ge=1, description="length of one full training")
    batch_size: int = Field(8, ge=2)
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="of the moving average that is shipped; 0: the last weights"
    )
    seed: int = Field(0, ge=0)
    written_if_set: ClassVar[tuple[str, ...]] = ("label_loss", "ema_decay")

    @model_validator(mode="after")
    def check_length(self) -> "TrialConfig":
        if self.recipe.only_calibrates and self.num_epochs != 1:
            raise ValueError(
                f"num_epochs of recipe {self.recipe.name} must be 1, which calibrates, but got "
                f"{self.num_epochs}"
            )
        quantized = self.recipe.quantized
        is_kept = self.recipe.is_reference or (quantized and quantized.start.is_reference)
        if is_kept and not self.student.is_trained:
            raise ValueError(
                f"recipe original must be for a network that came trained, but got "
                f"{self.student.describe()}"
            )
        return self

    def flatten(self) -> dict[str, Leaf]:
        """The configuration for tables: without the operations of a traced network.

        Fields of the student that are not written are shown, too.
        """
        student = self.student
        shown = {f"student.{field}": getattr(student, field) for field in student.written_if_set}
        hidden = {f"student.{field}" for field in student.hidden_fields}
        leaves = {**super().flatten(), **shown}
        return {path: leaf for path, leaf in leaves.items() if path not in hidden}

    @property
    def needs_teacher(self) -> bool:
        """Whether any part of the training, pretraining included, learns from a teacher."""
        return any(stage.learns_from_teacher for stage in self.stages)

    @property
    def stages(self) -> list[Recipe]:
        """The recipes of all parts of the training, that of the pretraining first."""
        quantized = self.recipe.quantized
        return [quantized.start, self.recipe] if quantized else [self.recipe]

    @property
    def distillation_terms(self) -> list[tuple[str, Term]]:
        """Distillation terms with their names, those of the pretraining included."""
        return [named for stage in self.stages for named in stage.distillation_terms.items()]

    @property
    def terms_of_live_teacher(self) -> list[str]:
        """Names of distillation terms that cached teacher outputs cannot serve."""
        return [name for name, term in self.distillation_terms if term.requires not in KEPT]

    @property
    def needs_live_teacher(self) -> str | None:
        """What of the training cached teacher outputs cannot serve, in words; None if nothing."""
        for name in self.terms_of_live_teacher:
            return f"the distillation term {name}"
        return "co-study" if self.recipe.trains_teacher else None

    @property
    def terms_of_decoder(self) -> list[str]:
        """Names of distillation terms that need a feature map of the student's decoder."""
        return [name for name, term in self.distillation_terms if term.requires == "decoder"]

    @property
    def start(self) -> "TrialConfig | None":
        """The pretraining of the full-precision student that a quantized one starts from."""
        if (quantized := self.recipe.quantized) is None:
            return None
        num_epochs = quantized.start_epochs or self.num_epochs
        if quantized.start.only_calibrates:
            num_epochs = 1
        return self.replace(recipe=quantized.start, num_epochs=num_epochs)

    @property
    def needs_sensitivity(self) -> bool:
        """Whether its bit-widths still have to be allocated by the student's sensitivity."""
        quantized = self.recipe.quantized
        return quantized is not None and quantized.quantizer.quantizer is None

    @property
    def quantizer(self) -> Quantizer | None:
        """The quantizer of the finished student.

        Raises:
            ValueError: the bit-widths have not been allocated yet.
        """
        if self.needs_sensitivity:
            raise ValueError(
                "recipe.quantizer must name bits to train with, but got an allocation, which only "
                "a study resolves"
            )
        return self.recipe.quantized.quantizer.quantizer if self.recipe.quantized else None

    def with_recipe(self, **changes: object) -> "TrialConfig":
        """A copy with some fields of its recipe changed."""
        return self.replace(recipe=self.recipe.replace(**changes))


class ExecutionConfig(FrozenConfig):
    """Paths of data and artifacts, and resources of a trial; not part of the search space."""

    data: Path = Field(description="folder of the packed data set")
    teacher: Path | None = Field(None, description="the teacher's model file")
    teacher_data: Path | None = Field(
        None, description="the same data packed at another size, which the teacher sees"
    )
    teacher_unlabelled: Path | None = Field(
        None, description="the same for the unlabelled images, where there are any"
    )
    teacher_outputs: Path | None = Field(
        None, description="folder of the teacher's outputs; None: the teacher runs at every step"
    )
    unlabelled: Path | None = Field(None, description="folder of the packed unlabelled images")
    unlabelled_outputs: Path | None = Field(
        None, description="of the teacher's outputs for them, where there are `teacher_outputs`"
    )
    artifacts: Path = Field(description="root of the artifact store")
    num_threads: int = Field(1, ge=1)
    gpu_share: float = Field(1.0, gt=0, le=1, description="of the GPU's memory that it may use")
    mps: Path | None = Field(
        None, description="folder of the Multi-Process Service by which trials share GPUs"
    )
    device: Literal["cpu", "cuda"] = "cpu"
    checkpoint_every_s: float = Field(
        CHECKPOINT_EVERY_S, ge=0, description="seconds that a kill may cost"
    )
    stop_files: tuple[Path, ...] = Field(
        (), description="once one exists, trainings keep where they stand and leave"
    )
    timeout_s: float | None = Field(None, gt=0, description="without progress, until it has failed")

    @property
    def teacher_file(self) -> Path:
        """The teacher's model file, copied to this machine where it is in a mirror."""
        assert self.teacher is not None, "outputs are a teacher's"
        return present(self.teacher)

    @property
    def of_teacher(self) -> "ExecutionConfig":
        """The same with the images that the teacher sees."""
        if self.teacher_data is None:
            return self
        return self.replace(data=self.teacher_data, unlabelled=self.teacher_unlabelled)


def read_config(path: Path) -> TrialConfig:
    if not path.is_file():
        raise ValueError(f"the configuration must exist, but there is no {path}")
    try:
        return TrialConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is not a valid TrialConfig: {first_problem(error)}") from error
