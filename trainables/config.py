"""The complete description of one trial, and of where it runs."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from trainables.core.command_line import first_problem
from trainables.core.config_base import FrozenConfig
from trainables.data.augmentation import Augmentation
from trainables.models.unet import UNetConfig
from trainables.quantization.mixed_precision import MixedPrecision
from trainables.quantization.quantizers.lsq import Lsq
from trainables.recipes import Distill, Ptq, Qat, QatDistill, Quantized, Recipe


class TrialConfig(FrozenConfig):
    """All that determines a trained student, given the data and the teacher."""

    student: UNetConfig = UNetConfig()
    recipe: Recipe
    augmentation: Augmentation = Augmentation()
    num_epochs: int = Field(60, ge=1, description="length of one full training")
    batch_size: int = Field(8, ge=2)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def check_length(self) -> "TrialConfig":
        if isinstance(self.recipe, Ptq) and self.num_epochs != 1:
            raise ValueError(
                f"num_epochs of recipe ptq must be 1, which calibrates, but got {self.num_epochs}"
            )
        return self

    @property
    def learning_rate(self) -> float | None:
        """The peak learning rate; None where nothing is trained."""
        return None if isinstance(self.recipe, Ptq) else self.recipe.optimizer.learning_rate

    @property
    def asks_teacher(self) -> bool:
        """Whether the recipe itself, its start aside, learns from a teacher."""
        return isinstance(self.recipe, Distill | QatDistill)

    @property
    def needs_teacher(self) -> bool:
        """Whether any part of the training, the start included, learns from a teacher."""
        return self.asks_teacher or (
            isinstance(self.recipe, Qat | Ptq) and isinstance(self.recipe.start, Distill)
        )

    @property
    def uses_mixed_precision(self) -> bool:
        """Whether its bits are still to be resolved, layer by layer."""
        return isinstance(self.recipe, Quantized) and isinstance(
            self.recipe.quantizer, MixedPrecision
        )

    @property
    def start(self) -> "TrialConfig":
        """The training of the full-precision student that a quantized one starts from."""
        assert isinstance(self.recipe, Quantized)
        num_epochs = self.recipe.start_epochs or self.num_epochs
        return self.replace(recipe=self.recipe.start, num_epochs=num_epochs)

    @property
    def quantizer(self) -> Lsq | None:
        """The quantizer of the finished student.

        Raises:
            ValueError: it is an allocation.
        """
        if not isinstance(self.recipe, Quantized):
            return None
        if isinstance(self.recipe.quantizer, MixedPrecision):
            raise ValueError(
                "recipe.quantizer must name bits to train with, but got an allocation, which only "
                "a study resolves"
            )
        return self.recipe.quantizer


class ExecutionConfig(FrozenConfig):
    """Where data and artifacts lie and what a trial runs on: given beside it, never sampled."""

    data: Path = Field(description="folder of the packed data set")
    teacher: Path | None = Field(None, description="the teacher's model file")
    teacher_outputs: Path | None = Field(
        None, description="folder of the teacher's outputs; None: the teacher runs at every step"
    )
    artifacts: Path = Field(description="root of the artifact store")
    num_threads: int = Field(1, ge=1)
    gpu_share: float = Field(1.0, gt=0, le=1, description="of the GPU's memory that it may use")
    device: Literal["cpu", "cuda"] = "cpu"
    checkpoint_every_s: float = Field(10.0, ge=0, description="seconds that a kill may cost")
    stop_file: Path | None = Field(
        None, description="once it exists, trainings keep where they stand and leave"
    )
    timeout_s: float | None = Field(None, gt=0, description="without progress, until it has failed")


def read_config(path: Path) -> TrialConfig:
    if not path.is_file():
        raise ValueError(f"the configuration must exist, but there is no {path}")
    try:
        return TrialConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is not a valid TrialConfig: {first_problem(error)}") from error
