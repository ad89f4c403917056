"""The configurations of recipes, the ways to train a student.

No file of the training framework is imported before a training begins.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self, get_args

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from trainables.core.config_base import FrozenConfig, TaggedConfig
from trainables.losses.configs import Pixelwise, Terms, TermWeights, by_name
from trainables.quantization.quantizers.base import QuantizerConfig
from trainables.quantization.quantizers.configs import DEFAULT_QUANTIZER

if TYPE_CHECKING:
    from trainables.recipes.base import Epoch, Task


class AdamW(FrozenConfig):
    """Peak learning rate and weight decay, which spares biases, normalisation and steps."""

    learning_rate: float = Field(4e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)


Schedule = Literal["one_cycle", "cosine"]
"""How learning rates change: up to their peak and down again, or down from it in each phase."""


class QuantizerLearningRates(FrozenConfig):
    """Peak learning rates of the logarithms of the quantization steps."""

    weight: float = Field(1e-3, gt=0)
    activation: float = Field(1e-2, gt=0)


class Recipe(TaggedConfig):
    """A way to train a student."""

    learns_from_teacher: ClassVar[bool] = False
    """Whether the recipe itself, without its pretraining, uses a teacher."""
    only_calibrates: ClassVar[bool] = False
    """Whether nothing is trained, so that a trial has a single epoch."""
    is_reference: ClassVar[bool] = False
    """Whether it only shows what others are compared with, so that no budget refuses it."""

    def train(self, task: "Task") -> Iterator["Epoch"]:
        """Trains, and yields the student after each epoch."""
        raise NotImplementedError

    @property
    def quantized(self) -> "QuantizedRecipe | None":
        """The recipe itself if it quantizes the student; else None."""
        return None

    @property
    def learning_rate(self) -> float | None:
        """The student's peak learning rate; None where nothing is trained."""
        return None

    def learning_rate_of(self, loss: str) -> float | None:
        """The peak learning rate of what a loss trains; None where it trains nothing."""
        return self.learning_rate

    @property
    def distillation_terms(self) -> Terms:
        """The terms of its distillation loss."""
        return {}

    def taught_from(self, num_steps: int) -> int:
        """The first of so many optimizer steps, from 0, that uses the teacher; `num_steps` if none.

        All later steps use it, too.
        """
        return 0 if self.learns_from_teacher else num_steps

    @property
    def trains_teacher(self) -> bool:
        """Whether the teacher learns from its student, so that it must run at every step."""
        return False

    def without_teacher(self) -> "Recipe":
        """The same training on labels alone: what distillation has to be better than."""
        return self

    def at_peak_memory(self) -> Self:
        """A copy whose first step is already in the phase that needs the most memory."""
        return self

    def quickly_calibrated(self) -> "Recipe":
        """A copy without adaptive rounding, which takes minutes, to measure a step of training."""
        return self


class FullPrecisionRecipe(Recipe):
    """A recipe with a full-precision student, which can be the start of quantized ones."""


class Original(FullPrecisionRecipe):
    """The student as its pretrained weights make it: what compression has to come close to."""

    name: Literal["original"] = "original"
    only_calibrates: ClassVar[bool] = True
    is_reference: ClassVar[bool] = True

    def train(self, task: "Task") -> Iterator["Epoch"]:
        from trainables.recipes.original import keep_original

        return keep_original(self, task)


class Supervised(FullPrecisionRecipe):
    """A full-precision student learns from labels: the baseline of every other recipe."""

    name: Literal["supervised"] = "supervised"
    optimizer: AdamW = AdamW()

    @property
    def learning_rate(self) -> float:
        return self.optimizer.learning_rate

    def train(self, task: "Task") -> Iterator["Epoch"]:
        from trainables.recipes.supervised import train_supervised

        return train_supervised(self, task)


class Distill(FullPrecisionRecipe):
    """A full-precision student learns from labels and from a frozen teacher."""

    name: Literal["distill"] = "distill"
    optimizer: AdamW = AdamW()
    losses: Terms = by_name(Pixelwise())
    term_weights: TermWeights = "fixed"
    learns_from_teacher: ClassVar[bool] = True
    written_if_set: ClassVar[tuple[str, ...]] = ("term_weights",)

    def train(self, task: "Task") -> Iterator["Epoch"]:
        from trainables.recipes.distill import train_distill

        return train_distill(self, task)

    def without_teacher(self) -> Supervised:
        return Supervised(optimizer=self.optimizer)

    @property
    def learning_rate(self) -> float:
        return self.optimizer.learning_rate

    @property
    def distillation_terms(self) -> Terms:
        return self.losses


CalibrationStep = Literal["equalization", "adaround", "bias_correction"]
"""What calibration does beside the choice of grids, in the order in which it is done."""


class QuantizedRecipe(Recipe):
    """A recipe that starts from a full-precision student and quantizes it."""

    start: SerializeAsAny[FullPrecisionRecipe] = Supervised()
    start_epochs: int | None = Field(None, ge=1, description="None: as many as the trial's own")
    quantizer: SerializeAsAny[QuantizerConfig] = DEFAULT_QUANTIZER
    calibration: tuple[CalibrationStep, ...] = ()
    written_if_set: ClassVar[tuple[str, ...]] = ("calibration",)

    @field_validator("calibration")
    @classmethod
    def sort_calibration(cls, steps: tuple[CalibrationStep, ...]) -> tuple[CalibrationStep, ...]:
        """Each step once and in order, so that equal calibrations have one digest."""
        return tuple(step for step in get_args(CalibrationStep) if step in steps)

    @model_validator(mode="after")
    def check_rounding(self) -> Self:
        if "adaround" in self.calibration:
            self.check_points_stay("calibration by adaround")
        return self

    def check_points_stay(self, what: str) -> None:
        """Raises ValueError where training moves the points of the grid under their weights."""
        quantizer = self.quantizer.quantizer
        if quantizer and not quantizer.keeps_points:
            raise ValueError(
                f"{what} must be for weights that stay where they are on the grid, but got the "
                f"quantizer {quantizer.name}"
            )

    @property
    def quantized(self) -> "QuantizedRecipe":
        return self

    @property
    def undistilled_start(self) -> FullPrecisionRecipe:
        """The start without a teacher."""
        start = self.start.without_teacher()
        assert isinstance(start, FullPrecisionRecipe)
        return start

    def quickly_calibrated(self) -> "Recipe":
        return self.replace(calibration=[step for step in self.calibration if step != "adaround"])


class Ptq(QuantizedRecipe):
    """The calibrated student without quantization-aware training; a trial has a single epoch."""

    name: Literal["ptq"] = "ptq"
    only_calibrates: ClassVar[bool] = True

    def train(self, task: "Task") -> Iterator["Epoch"]:
        from trainables.recipes.ptq import train_ptq

        return train_ptq(self, task)


class QuantizedTraining(QuantizedRecipe):
    """A recipe that trains the quantized student; its options for few bits are off by default."""

    optimizer: AdamW = AdamW(learning_rate=1e-3)
    schedule: Schedule = "one_cycle"
    bit_descent: int = Field(
        1, ge=1, le=7, description="parts of the training, each with one bit fewer than that before"
    )
    dampening: float = Field(
        0.0,
        ge=0,
        description="weight of the squared distance to the grid at the last step",
    )
    norm_batches: int = Field(
        0, ge=0, description="training batches that BatchNorm's statistics are estimated from again"
    )
    step_learning_rate: QuantizerLearningRates = QuantizerLearningRates()
    written_if_set: ClassVar[tuple[str, ...]] = (
        "calibration",
        "schedule",
        "bit_descent",
        "dampening",
        "norm_batches",
    )

    @model_validator(mode="after")
    def check_few_bits(self) -> Self:
        if self.dampening:
            self.check_points_stay("dampening")
        if "adaround" in self.calibration and self.bit_descent > 1:
            raise ValueError(
                "calibration by adaround must be for grids that keep their bits, but got "
                f"bit_descent {self.bit_descent}, which calibrates them anew"
            )
        return self

    @property
    def learning_rate(self) -> float:
        return self.optimizer.learning_rate

    def at_peak_memory(self) -> Self:
        return self.replace(bit_descent=1)


class Qat(QuantizedTraining):
    """Quantization-aware training of a converged full-precision student, on labels alone."""

    name: Literal["qat"] = "qat"

    def train(self, task: "Task") -> Iterator["Epoch"]:
        from trainables.recipes.qat import train_qat

        return train_qat(self, task)


TEACHER_LOSS = "teacher"
"""Name of the teacher's loss in co-study."""


class QatDistill(QuantizedTraining):
    """A quantized student in three phases, each a fraction of the training's optimizer steps.

    In self-study the student learns from labels alone; in co-study student and teacher are trained
    together, each also from the other; in tutoring, the rest, the teacher is frozen. Either of the
    first two fractions may be 0; a training of self-study alone is `Qat`.
    """

    name: Literal["qat_distill"] = "qat_distill"
    written_if_set: ClassVar[tuple[str, ...]] = (
        *QuantizedTraining.written_if_set,
        "term_weights",
    )
    losses: Terms = by_name(Pixelwise())
    term_weights: TermWeights = "fixed"
    self_study: float = Field(0.15, ge=0, lt=1)
    co_study: float = Field(0.0, ge=0, le=1)
    teacher_learning_rate: float = Field(1e-4, gt=0, description="peak, during co-study")
    learns_from_teacher: ClassVar[bool] = True

    @model_validator(mode="after")
    def check_phases(self) -> "QatDistill":
        if self.self_study + self.co_study > 1 + 1e-9:
            raise ValueError(
                f"self_study + co_study <= 1 must hold, but got {self.self_study} and "
                f"{self.co_study}"
            )
        return self

    def without_teacher(self) -> Qat:
        shared = {name: getattr(self, name) for name in Qat.model_fields.keys() - {"name", "start"}}
        return Qat(start=self.undistilled_start, **shared)

    def taught_from(self, num_steps: int) -> int:
        return round(self.self_study * num_steps)

    @property
    def trains_teacher(self) -> bool:
        return self.co_study > 0

    @property
    def tutoring(self) -> float:
        """The third phase's fraction."""
        return max(0.0, 1 - self.self_study - self.co_study)

    def train(self, task: "Task") -> Iterator["Epoch"]:
        from trainables.recipes.qat_distill import train_qat_distill

        return train_qat_distill(self, task)

    @property
    def distillation_terms(self) -> Terms:
        return self.losses

    def learning_rate_of(self, loss: str) -> float | None:
        return self.teacher_learning_rate if loss == TEACHER_LOSS else self.learning_rate

    def at_peak_memory(self) -> Self:
        return self.replace(self_study=0, co_study=1 if self.co_study else 0, bit_descent=1)


DISTILLED = Distill(
    losses=by_name(Pixelwise(temperature=1, where="teacher_right", class_weighted=True))
)
"""Distillation that does not overrule labels, and weights classes as the loss on labels does.

It is the start of quantized students that have a teacher: they are distilled, then quantized.
"""
RECOMMENDED: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        DISTILLED,
        Qat(schedule="cosine"),
        QatDistill(schedule="cosine", start=DISTILLED, losses=DISTILLED.losses),
    )
}
"""Recipes with settings that differ from the defaults, which older configurations rely on."""
