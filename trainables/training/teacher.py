"""The teacher: a model file in the artifact store, measured on the data."""

import os
from dataclasses import dataclass
from pathlib import Path

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.files import hash_file
from trainables.core.metrics import TeacherMetrics
from trainables.data.labels import VOC_CLASSES
from trainables.data.packed import PackedDataset, open_pack
from trainables.models.configs import TORCHVISION_NAMES, NetworkSource, TorchvisionConfig
from trainables.models.model_file import (
    MODEL_FILE,
    NETWORK_FILE,
    ModelSpec,
    read_card,
    write_model,
)
from trainables.models.network_source import import_network
from trainables.models.state_dict import is_model_file, read_state_dict
from trainables.models.torchvision_model import PRETRAINED_CLASSES, load_pretrained
from trainables.training.teacher_metrics import measure_teacher
from trainables.training.trial import train_or_find

DEFAULT_TORCHVISION = "deeplabv3_resnet101"


@dataclass(frozen=True)
class Teacher:
    """A teacher's model file and scores; `note` describes the teacher and the reason for it."""

    file: Path
    metrics: TeacherMetrics
    note: str

    @property
    def miou(self) -> float:
        """On the validation split, in [0,1]."""
        return self.metrics.val.miou


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
        return own_teacher(run, own, data, "as it came")
    if spec == "auto" and data.class_names == VOC_CLASSES:
        try:
            return torchvision_teacher(DEFAULT_TORCHVISION, run, data)
        except ConnectionError as error:
            return own_teacher(run, own, data, f"trained on the data, because {error}")
    if spec == "auto":
        return own_teacher(run, own, data, "trained on the data")
    if spec in TORCHVISION_NAMES:
        return torchvision_teacher(spec, run, data)
    return file_teacher(named_file(spec), run, data)


def own_teacher(run: ExecutionConfig, own: TrialConfig, data: PackedDataset, note: str) -> Teacher:
    file = train_or_find(own, run, description="training the teacher").path / NETWORK_FILE
    return Teacher(file, measure_teacher(file, run, data), f"{own.student.describe()} {note}")


def torchvision_teacher(name: str, run: ExecutionConfig, data: PackedDataset) -> Teacher:
    config = TorchvisionConfig.model_validate({"name": name})

    def build(folder: Path) -> None:
        card = ModelSpec(model=config, num_classes=PRETRAINED_CLASSES, folded=False)
        write_model(folder / MODEL_FILE, load_pretrained(config.name), card)

    key = {"torchvision": name, "data": data.digest}
    copy = ArtifactStore(run.artifacts).get("teacher", key, build).path / MODEL_FILE
    return Teacher(copy, measure_teacher(copy, run, data), f"torchvision {name}")


def file_teacher(file: Path, run: ExecutionConfig, data: PackedDataset) -> Teacher:
    def build(folder: Path) -> None:
        copy_model(file, folder / MODEL_FILE)

    key = {"file": hash_file(file), "data": data.digest}
    copy = ArtifactStore(run.artifacts).get("teacher", key, build).path / MODEL_FILE
    name = read_card(copy).model.name
    return Teacher(copy, measure_teacher(copy, run, data), f"{name} of {file}")


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
