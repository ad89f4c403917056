"""Parts that many tests build alike."""

import shutil
from pathlib import Path

from torch import nn

from search.analysis.tables import write_tables
from search.core.config import StudyConfig
from search.core.record import Record
from search.storage.study_file import StudyFile, write_study_file
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.metrics import Metrics
from trainables.data.configs import Augmentation
from trainables.data.packed import open_pack, pack_dataset
from trainables.data.registry import open_source
from trainables.models.configs import UNetConfig
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.base import TeacherOutputSource
from trainables.recipes.configs import AdamW, Ptq, Recipe, Supervised
from trainables.training.task import TrialTask
from trainables.training.trial import Trial, save

PLAIN = Supervised(optimizer=AdamW(learning_rate=1e-2))
FINISHED: dict[str, tuple[Recipe, str]] = {
    "0000": (Ptq(start=PLAIN, start_epochs=8, quantizer=Lsq(weight_bits=2)), "transposed"),
    "0001": (Ptq(start=PLAIN, start_epochs=8, quantizer=Lsq(weight_bits=3)), "bilinear"),
    "0002": (Ptq(start=PLAIN, start_epochs=8, quantizer=Lsq(activation_bits=8)), "transposed"),
    "0003": (
        Ptq(start=PLAIN, start_epochs=8, quantizer=Lsq(weight_bits=8, activation_bits=8)),
        "transposed",
    ),
    "0004": (PLAIN, "bilinear"),
}
"""All of them are taken for the front."""


def make_metrics(
    miou: float,
    size_bytes: int | None,
    epoch: int = 1,
    device_seconds: float = 1,
    class_iou: tuple[float | None, ...] | None = None,
) -> Metrics:
    """What a trial reports; without `size_bytes` it has not finished.

    With `class_iou`, the classes of IoU 0 are never predicted.
    """
    return Metrics(
        epoch=epoch,
        time_ms=epoch,
        miou=miou,
        pixel_accuracy=0.5,
        class_iou=class_iou,
        classes_never_predicted=None if class_iou is None else class_iou.count(0.0),
        losses={"cross_entropy": 1.0},
        device_seconds=device_seconds,
        start_seconds=0,
        num_params=1,
        macs=1,
        predicted_size_bytes=size_bytes or 1000,
        size_bytes=size_bytes,
    )


def make_config(storage: Path, data: Path | str, **changes: object) -> StudyConfig:
    """What a command line asks for, but for `changes`."""
    fixed = {
        "space": "supervised",
        "data": str(data),
        "name": "study",
        "storage": storage,
        "samples": 1,
        "epochs": 2,
        "image_size": 32,
        "teacher": "auto",
        "sampler": "tpe",
        "scheduler": "none",
        "seed": 0,
        "gpus_per_trial": 0,
        "augmentation": "flip",
        "grace_epochs": 1,
        "tracking_uri": f"sqlite:///{storage / 'mlflow.db'}",
    }
    return StudyConfig.model_validate({**fixed, **changes})


def make_study_file(folder: Path, **changes: object) -> StudyFile:
    """The study in a folder, on data of three classes."""
    fixed = {
        "id": "1",
        "config": make_config(folder.parent, "blocks", name=folder.name),
        "versions": {},
        "data_digest": "d",
        "class_names": ("sky", "a/b", "tree"),
    }
    return StudyFile.model_validate({**fixed, **changes})


class ShortTask(TrialTask):
    """A short training that quantizes from random weights; keeps its `source`."""

    source: TeacherOutputSource

    def __init__(
        self, recipe: Recipe, run: ExecutionConfig, batch_size: int = 8, num_epochs: int = 1
    ) -> None:
        config = TrialConfig(
            student=UNetConfig(width=3, depth=2),
            recipe=recipe,
            augmentation=Augmentation(min_scale=1, max_scale=1, color=0),
            num_epochs=num_epochs,
            batch_size=batch_size,
        )
        super().__init__(config, run)

    def pretrained_student(self) -> nn.Module:
        return self.new_student()

    def teacher(self) -> TeacherOutputSource:
        self.source = super().teacher()
        return self.source


def make_finished_study(storage: Path, data_folder: Path) -> Path:
    """The folder of a finished study of five trials, as a search leaves it."""
    store = ArtifactStore(storage / "artifacts")
    config = make_config(storage, data_folder, space="ptq", name="blocks", samples=5, epochs=8)
    data = open_pack(pack_dataset(open_source(config.data, 32, store.root), store).path)
    run = ExecutionConfig(data=data.path, artifacts=store.root)
    records = []
    for trial_id, (recipe, upsampling) in FINISHED.items():
        trial = TrialConfig(
            student=UNetConfig.model_validate({"width": 6, "depth": 2, "upsampling": upsampling}),
            recipe=recipe,
            augmentation=Augmentation(min_scale=1, max_scale=1, color=0),
            num_epochs=8 if recipe is PLAIN else 1,
        )
        metrics = list(save(Trial(trial, run), config.folder / "models" / trial_id))[-1]
        records.append(Record(trial_id, "COMPLETE", "", trial, metrics))
    write_study_file(
        StudyFile(
            id="1",
            config=config,
            versions={},
            data_digest=data.digest,
            class_names=data.class_names,
        )
    )
    write_tables(records, config.folder, data.class_names)
    shutil.copy(config.folder / "trials.parquet", config.folder / "front.parquet")
    return config.folder
