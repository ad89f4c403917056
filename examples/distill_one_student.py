"""Trains one configuration without Ray: a student of 4 bits that learns from a teacher.

    python examples/distill_one_student.py OUT

OUT gets the model file, its configuration and the metrics of each epoch. The teacher and the
full-precision student that the quantized one starts from are kept in OUT/artifacts, so that a
second call does not train them again.
"""

import sys
from pathlib import Path

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.data.packed import pack_dataset
from trainables.data.registry import ShapesSource
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import RECOMMENDED
from trainables.training.defaults import defaults_for
from trainables.training.teacher import prepare_teacher
from trainables.training.trial import Trial, save

CONFIG = TrialConfig.model_validate(
    {
        "student": {"name": "unet", "width": 4, "depth": 3},
        "recipe": RECOMMENDED["qat_distill"].replace(
            start_epochs=6, quantizer=Lsq(weight_bits=4, activation_bits=4)
        ),
        "label_loss": {"class_weights": "sqrt"},
        "augmentation": {"min_scale": 1, "max_scale": 1, "color": 0},
        "num_epochs": 3,
    }
)


def main(folder: Path) -> None:
    store = ArtifactStore(folder / "artifacts")
    data = pack_dataset(ShapesSource(image_size=32, num_train=128, num_val=32), store)
    run = ExecutionConfig(data=data.path, artifacts=store.root)
    teacher_config = defaults_for("shapes", run.device).default_teacher_config(num_epochs=6)
    teacher = prepare_teacher(run, "auto", teacher_config)
    print(f"teacher: {teacher.note}, mIoU {teacher.miou:.3f}")
    trial = Trial(CONFIG, run.replace(teacher=teacher.file))
    for metrics in save(trial, folder):
        losses = ", ".join(f"{name} {value:.3f}" for name, value in metrics.losses.items())
        print(f"epoch {metrics.epoch}: mIoU {metrics.miou:.3f}, {losses}")
    print(f"{folder / 'model.safetensors'}: {metrics.size_bytes} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
