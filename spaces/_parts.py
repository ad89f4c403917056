"""Parts that several spaces sample alike; parameters are named by their path in TrialConfig."""

from collections.abc import Callable, Mapping

import optuna

from spaces import LEARNING_RATE, STUDENT, U_NETS, Students
from trainables.config import TrialConfig
from trainables.losses.configs import Channelwise, Pairwise, Pixelwise, Term, Terms
from trainables.models.configs import StudentConfig
from trainables.quantization.quantizers.configs import Lsq, MixedPrecision
from trainables.recipes.configs import (
    DISTILLED,
    AdamW,
    Qat,
    QatDistill,
    QuantizerLearningRates,
)

SuggestQuantizer = Callable[[optuna.Trial], Lsq | MixedPrecision]
WIDTH = "student.width"
WEIGHT_BITS, ACTIVATION_BITS = "recipe.quantizer.weight_bits", "recipe.quantizer.activation_bits"
ENCODER, DECODER = "recipe.quantizer.encoder", "recipe.quantizer.decoder"
"""Bits by which the layers of a part depart from their allocation."""
PIXEL, EXTRA = "recipe.losses.pixelwise", "recipe.losses.extra"
EXTRA_TERMS: Mapping[str, type[Pairwise | Channelwise]] = {
    "pairwise": Pairwise,
    "channelwise": Channelwise,
}
"""Terms of which one may join the pixel-wise one; kept teacher outputs serve them."""


def suggest_student(trial: optuna.Trial, students: Students = U_NETS) -> StudentConfig:
    """One of some students, with a choice for each field that its family varies."""
    names = [student.name for student in students]
    name = trial.suggest_categorical(STUDENT, names) if len(names) > 1 else names[0]
    student = students[names.index(name)]
    return student.replace(
        **{
            field: trial.suggest_categorical(f"student.{field}", list(values))
            for field, values in student.choices().items()
        }
    )


def suggest_adamw(trial: optuna.Trial, low: float, high: float, students: Students) -> AdamW:
    """The peak learning rate, between `low` and `high` for students with random weights.

    What was learned before is kept by lower rates: down to a tenth where students have pretrained
    backbones, and a fiftieth to a tenth of the range for networks that came trained.
    """
    if any(student.is_trained for student in students):
        low, high = low / 50, high / 10
    elif any(student.is_pretrained for student in students):
        low /= 10
    rate = trial.suggest_float(LEARNING_RATE, low, high, log=True)
    return AdamW(learning_rate=rate)


def suggest_step_rates(trial: optuna.Trial) -> QuantizerLearningRates:
    """Peak learning rates of the quantization steps."""
    path = "recipe.step_learning_rate"
    return QuantizerLearningRates(
        weight=trial.suggest_float(f"{path}.weight", 1e-4, 1e-2, log=True),
        activation=trial.suggest_float(f"{path}.activation", 1e-3, 3e-2, log=True),
    )


def suggest_lsq(trial: optuna.Trial) -> Lsq:
    """Bit-widths of all layers but the first and the last."""
    return Lsq(
        weight_bits=trial.suggest_int(WEIGHT_BITS, 2, 8),
        activation_bits=trial.suggest_int(ACTIVATION_BITS, 3, 8),
    )


def suggest_mixed_precision(trial: optuna.Trial) -> MixedPrecision:
    """Mean bit-widths, and by how much the layers of parts depart from what they are allocated."""
    return MixedPrecision(
        weight_bits=trial.suggest_float(WEIGHT_BITS, 2, 6),
        activation_bits=trial.suggest_float(ACTIVATION_BITS, 3, 8),
        encoder=trial.suggest_int(ENCODER, -1, 1),
        decoder=trial.suggest_int(DECODER, -1, 1),
    )


def suggest_qat(
    trial: optuna.Trial,
    lowest_rate: float,
    students: Students,
    suggest_quantizer: SuggestQuantizer = suggest_lsq,
) -> TrialConfig:
    """Quantized students that learn from labels, with a learning rate of up to 0.01."""
    return TrialConfig(
        student=suggest_student(trial, students),
        recipe=Qat(
            optimizer=suggest_adamw(trial, lowest_rate, 1e-2, students),
            step_learning_rate=suggest_step_rates(trial),
            quantizer=suggest_quantizer(trial),
            schedule="cosine",
        ),
    )


def suggest_qat_distill(
    trial: optuna.Trial, students: Students, suggest_quantizer: SuggestQuantizer = suggest_lsq
) -> TrialConfig:
    """Quantized students that start distilled and learn from the teacher in every step."""
    return TrialConfig(
        student=suggest_student(trial, students),
        recipe=QatDistill(
            optimizer=suggest_adamw(trial, 5e-4, 1e-2, students),
            step_learning_rate=suggest_step_rates(trial),
            quantizer=suggest_quantizer(trial),
            start=DISTILLED,
            schedule="cosine",
            losses=suggest_losses(trial),
            self_study=0.0,
        ),
    )


def suggest_losses(trial: optuna.Trial) -> Terms:
    """Weight and temperature of the pixel-wise term, and one more term or none, with its weight.

    The teacher is imitated where it is right: elsewhere it would overrule the labels of classes
    that it does not know. Where the label loss weights classes, the pixel-wise term does, too.
    """
    terms: dict[str, Term] = {
        "pixelwise": Pixelwise(
            weight=trial.suggest_float(f"{PIXEL}.weight", 0.1, 3, log=True),
            temperature=trial.suggest_float(f"{PIXEL}.temperature", 1, 4, log=True),
            where="teacher_right",
            class_weighted=True,
        )
    }
    extra = trial.suggest_categorical(f"{EXTRA}.name", [None, *EXTRA_TERMS])
    if extra is not None:
        weight = trial.suggest_float(f"{EXTRA}.weight", 0.1, 3, log=True)
        terms["extra"] = EXTRA_TERMS[str(extra)](weight=weight)
    return terms
