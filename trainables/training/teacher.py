"""The teacher as an artifact: a model file and its own mIoU on the validation split."""

import json
import math
import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.files import hash_file
from trainables.core.progress import ProgressReporter
from trainables.data.labels import VOC_CLASSES
from trainables.data.loader import Loader
from trainables.data.packed import PackedDataset, open_pack
from trainables.models.base import to_device
from trainables.models.configs import TORCHVISION_NAMES, NetworkSource, TorchvisionConfig
from trainables.models.model_file import (
    METRICS_FILE,
    MODEL_FILE,
    NETWORK_FILE,
    ModelSpec,
    read_card,
    read_model,
    write_model,
)
from trainables.models.network_source import import_network
from trainables.models.state_dict import is_model_file, read_state_dict
from trainables.models.torchvision_model import PRETRAINED_CLASSES, load_pretrained
from trainables.training.evaluation import BATCH_SIZE, evaluate
from trainables.training.trial import train_or_find

DEFAULT_TORCHVISION = "deeplabv3_resnet101"


@dataclass(frozen=True)
class Teacher:
    """A teacher's model file and mIoU; `note` describes the teacher and the reason for it."""

    file: Path
    miou: float
    note: str


def check_teacher(spec: str, num_classes: int, source: NetworkSource | None = None) -> None:
    """Checks what is known of a teacher before anything is written.

    Raises:
        ValueError: `spec` names nothing, or a teacher of other than `num_classes` classes.
        ConnectionError: its weights are neither cached nor to be downloaded.
    """
    if source is not None:
        found = import_network(source).recorded.num_classes
    elif spec == "auto":
        return
    elif spec in TORCHVISION_NAMES:
        found = PRETRAINED_CLASSES
    elif named_file(spec).is_file():
        found = count_classes(named_file(spec))
    else:
        raise ValueError(
            "the teacher must be auto, a model file, a state dict of a torchvision network, or one "
            f"of {', '.join(TORCHVISION_NAMES)}, but got {spec}"
        )
    if found != num_classes:
        raise ValueError(
            f"the teacher must have the {num_classes} classes of the data, but {spec} has {found}"
        )
    if spec in TORCHVISION_NAMES:
        load_pretrained(TorchvisionConfig.model_validate({"name": spec}).name)


def prepare_teacher(run: ExecutionConfig, spec: str, own: TrialConfig) -> Teacher:
    """The teacher that `spec` names (see `check_teacher`), measured on the data of `run`.

    `auto` is the network that is compressed, if one is. Otherwise it is torchvision's
    DeepLabV3-ResNet101 for VOC's 21 classes where its weights are available, else a network trained
    on the data with the configuration `own`.

    Raises:
        TrialFailed: the network trained on the data learned nothing.
    """
    data = open_pack(run.data)
    if spec == "auto" and own.recipe.is_reference:
        return own_teacher(run, own, "as it came")
    if spec == "auto" and data.class_names == VOC_CLASSES:
        try:
            return torchvision_teacher(DEFAULT_TORCHVISION, run, data)
        except ConnectionError as error:
            return own_teacher(run, own, f"trained on the data, because {error}")
    if spec == "auto":
        return own_teacher(run, own, "trained on the data")
    if spec in TORCHVISION_NAMES:
        return torchvision_teacher(spec, run, data)
    return file_teacher(named_file(spec), run, data)


def own_teacher(run: ExecutionConfig, own: TrialConfig, note: str) -> Teacher:
    folder = train_or_find(own, run, description="training the teacher").path
    note = f"{own.student.describe()} {note}"
    return Teacher(folder / NETWORK_FILE, read_miou(folder), note)


def torchvision_teacher(name: str, run: ExecutionConfig, data: PackedDataset) -> Teacher:
    config = TorchvisionConfig.model_validate({"name": name})

    def build(folder: Path) -> None:
        card = ModelSpec(model=config, num_classes=PRETRAINED_CLASSES, folded=False)
        write_model(folder / MODEL_FILE, load_pretrained(config.name), card)
        measure(folder, run, data)

    key = {"torchvision": name, "data": data.digest}
    folder = ArtifactStore(run.artifacts).get("teacher", key, build).path
    return Teacher(folder / MODEL_FILE, read_miou(folder), f"torchvision {name}")


def file_teacher(file: Path, run: ExecutionConfig, data: PackedDataset) -> Teacher:
    def build(folder: Path) -> None:
        copy_model(file, folder / MODEL_FILE)
        measure(folder, run, data)

    key = {"file": hash_file(file), "data": data.digest}
    folder = ArtifactStore(run.artifacts).get("teacher", key, build).path
    name = read_card(folder / MODEL_FILE).model.name
    return Teacher(folder / MODEL_FILE, read_miou(folder), f"{name} of {file}")


def import_teacher(run: ExecutionConfig, source: NetworkSource) -> Path:
    """The model file of a network of the user's, made at first use.

    Raises:
        ValueError: it cannot be built or traced.
    """
    network = import_network(source)
    card = ModelSpec(
        model=network.student(), num_classes=network.recorded.num_classes, folded=False
    )

    def build(folder: Path) -> None:
        model = card.build()
        model.load_state_dict(network.weights)
        write_model(folder / MODEL_FILE, model, card)

    key = {"weights": network.weights_digest, "model": card.model.digest()}
    return ArtifactStore(run.artifacts).get("import", key, build).path / MODEL_FILE


def named_file(spec: str) -> Path:
    return Path(os.path.expanduser(spec))


def count_classes(file: Path) -> int:
    """The number of classes of the network in a model file or in a state dict."""
    if is_model_file(file):
        return read_card(file).num_classes
    return read_state_dict(file).num_classes


def copy_model(file: Path, to: Path) -> None:
    """Writes the network in a model file or in a state dict as a model file."""
    if is_model_file(file):
        to.write_bytes(file.read_bytes())
        return
    state = read_state_dict(file)
    write_model(to, state.build(), state.card)


def measure(folder: Path, run: ExecutionConfig, data: PackedDataset) -> None:
    val = Loader(data.val, torch.device(run.device))
    model = to_device(read_model(folder / MODEL_FILE), val.device)
    progress = ProgressReporter("measuring the teacher", "batch", math.ceil(len(val) / BATCH_SIZE))
    num_done = count(1)
    miou = evaluate(model, val, data.num_classes, lambda: progress.update(next(num_done))).miou
    (folder / METRICS_FILE).write_text(json.dumps([{"miou": miou}]))


def read_miou(folder: Path) -> float:
    return float(json.loads((folder / METRICS_FILE).read_text())[-1]["miou"])
