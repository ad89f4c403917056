"""Records of a study, and those of its front."""

from search.core.record import Record, RecordState
from trainables.config import TrialConfig
from trainables.core.metrics import Metrics
from trainables.models.configs import UNetConfig
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import AdamW, Qat, Recipe, Supervised

CLASSES = ("sky", "road", "<b>", "tree")
"""Class names of the data; no label holds the last one."""
FAILED = Record("0000", "FAIL", "the space failed", None, None)


def metrics(miou: float, size_bytes: int | None, epoch: int = 60) -> Metrics:
    return Metrics(
        epoch=epoch,
        time_ms=0,
        miou=miou,
        pixel_accuracy=0.9,
        losses={"cross_entropy": 0.4},
        class_iou=(miou + 0.1, miou - 0.1, 0.0, None),
        classes_never_predicted=1 if miou < 0.6 else 0,
        device_seconds=1234.5,
        start_seconds=300.0,
        num_params=7_760_000_000,
        macs=5_000_000_000,
        ram_bytes=262_144,
        predicted_size_bytes=size_bytes or 70_000,
        size_bytes=size_bytes,
    )


def record(
    trial_id: str,
    miou: float,
    size_bytes: int | None,
    recipe: Recipe | None = None,
    state: RecordState = "COMPLETE",
    width: int = 8,
) -> Record:
    config = TrialConfig(student=UNetConfig(width=width), recipe=recipe or Supervised())
    return Record(trial_id, state, "", config, metrics(miou, size_bytes))


def quantized(weight_bits: int, activation_bits: int = 8) -> Qat:
    return Qat(
        optimizer=AdamW(learning_rate=0.00125),
        quantizer=Lsq(weight_bits=weight_bits, activation_bits=activation_bits),
    )


def staircase_of(count: int) -> list[Record]:
    """A front of `count` points, ever closer to each other."""
    return [
        record(f"{n:04d}", 0.7 - 0.3 / (n + 1), int(1e7 * (3 - 2 / (n + 1))), quantized(2 + n % 7))
        for n in range(count)
    ]
