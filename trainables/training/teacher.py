"""The teacher: a model file in the artifact store, measured on the data."""

import os
from dataclasses import dataclass
from pathlib import Path

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore, present
from trainables.core.files import hash_file, hash_file_once
from trainables.core.metrics import TeacherMetrics
from trainables.data.labels import VOC_CLASSES
from trainables.data.packed import PackedDataset, open_pack
from trainables.models.averaged import average
from trainables.models.configs import (
    TORCHVISION_NAMES,
    NetworkConfig,
    NetworkSource,
    StudentConfig,
    TorchvisionName,
)
from trainables.models.model_file import (
    MODEL_FILE,
    NETWORK_FILE,
    ModelSpec,
    read_spec,
    write_model,
)
from trainables.models.network_source import import_network
from trainables.models.state_dict import is_model_file, read_state_dict
from trainables.models.torchvision_model import (
    DEFAULT_PRETRAINED,
    PRETRAINED_CLASSES,
    load_pretrained,
    pretrained_spec,
)
from trainables.teachers.averaging import PLAIN, Averaging
from trainables.training.teacher_metrics import measure_teacher
from trainables.training.trial import train_or_find
from trainables.training.weights import check_students


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


def check_teacher(
    spec: str | StudentConfig,
    num_classes: int,
    canvas: tuple[int, int],
    source: NetworkSource | None = None,
) -> None:
    """Checks what is known of a teacher before anything is written.

    Args:
        canvas: height and width of the images that it sees, in pixels.

    Raises:
        ValueError: `spec` names nothing, or a teacher of other than `num_classes` classes, or a
            network of this project that takes larger images. That is all that is checked of a
            student that is to be trained.
        ConnectionError: its weights are neither cached nor to be downloaded.
    """
    if source is not None:
        imported = import_network(source)
        network: NetworkConfig | None = imported.student()
        found = imported.recorded.num_classes
    elif spec == "auto":
        return
    elif isinstance(spec, StudentConfig):
        network, found = spec, num_classes
    elif spec in TORCHVISION_NAMES:
        network, found = None, PRETRAINED_CLASSES
    elif named_file(spec).is_file():
        network, found = network_in(named_file(spec))
    else:
        raise ValueError(
            "--teacher must be auto, a model file, a state dict of a torchvision network, in a "
            "study or comparison also a student, or one of "
            f"{', '.join(TORCHVISION_NAMES)}, but got {spec}"
        )
    if found != num_classes:
        raise ValueError(
            f"--teacher must have the {num_classes} classes of the data, but {spec} has {found}"
        )
    if isinstance(network, StudentConfig):
        try:
            check_students([network], num_classes, canvas)
        except ValueError as error:
            raise ValueError(
                "--teacher must suit the size of its images (--teacher-size, or --image-size): "
                f"{error}"
            ) from error
    if spec in TORCHVISION_NAMES:
        load_pretrained(spec)


def prepare_teacher(
    run: ExecutionConfig, spec: str | StudentConfig, own: TrialConfig, averaging: Averaging = PLAIN
) -> Teacher:
    """The teacher that `spec` names (see `check_teacher`), measured on the data that it sees.

    `auto` is the network that is compressed, if one is. Otherwise it is torchvision's
    DeepLabV3-ResNet101 for VOC's 21 classes where its weights are available, else a network trained
    on the data with the configuration `own`. So is one that is named as a student.

    Raises:
        TrialFailed: the network trained on the data learned nothing.
    """
    seen = run.of_teacher
    data = open_pack(seen.data)
    if spec == "auto" and own.recipe.is_reference:  # its weights are kept with the students' data
        files, note = own_teacher(run, own), f"{own.student.describe()} as it came"
    else:
        files, note = teacher_networks(seen, spec, own, averaging.num_seeds, data)
    file = averaged(files, averaging.mirrored, seen, data)
    if len(files) > 1:
        note += f", the mean of {len(files)} seeds"
    if read_spec(file).model.averages_mirror_images():
        note += ", mirror images averaged"
    elif averaging.mirrored:
        note += ", mirror images not averaged, since its normalisation is folded"
    if run.teacher_data is not None:
        note += f", at {data.height}x{data.width} pixels"
    return Teacher(file, measure_teacher(file, seen, data), note)


def teacher_networks(
    run: ExecutionConfig,
    spec: str | StudentConfig,
    own: TrialConfig,
    num_seeds: int,
    data: PackedDataset,
) -> tuple[list[Path], str]:
    """The model files of a teacher, and what it is and why.

    Raises:
        TrialFailed: a network trained on the data learned nothing.
    """
    reason = ""
    if spec == "auto" and data.class_names == VOC_CLASSES:
        try:
            return torchvision_teacher(DEFAULT_PRETRAINED, run, data)
        except ConnectionError as error:
            reason = f", because {error}"
    if spec == "auto" or isinstance(spec, StudentConfig):
        files = own_teacher(run, own, num_seeds)
        return files, f"{own.student.describe()} trained on the data{reason}"
    if spec in TORCHVISION_NAMES:
        return torchvision_teacher(spec, run, data)
    return file_teacher(named_file(spec), run, data)


def own_teacher(run: ExecutionConfig, own: TrialConfig, num_seeds: int = 1) -> list[Path]:
    files = []
    for index in range(num_seeds):
        of_all = f" {index + 1} of {num_seeds}" if num_seeds > 1 else ""
        config = own.replace(seed=own.seed + index)
        trained = train_or_find(config, run, description=f"training the teacher{of_all}")
        files.append(trained.path / NETWORK_FILE)
    return files


def torchvision_teacher(
    name: TorchvisionName, run: ExecutionConfig, data: PackedDataset
) -> tuple[list[Path], str]:
    def build(folder: Path) -> None:
        write_model(folder / MODEL_FILE, load_pretrained(name), pretrained_spec(name))

    key = {"torchvision": name, "data": data.digest}
    copy = ArtifactStore(run.artifacts).get("teacher", key, build).path / MODEL_FILE
    return [copy], f"torchvision {name}"


def file_teacher(file: Path, run: ExecutionConfig, data: PackedDataset) -> tuple[list[Path], str]:
    def build(folder: Path) -> None:
        copy_model(file, folder / MODEL_FILE)

    key = {"file": hash_file(present(file)), "data": data.digest}
    copy = ArtifactStore(run.artifacts).get("teacher", key, build).path / MODEL_FILE
    return [copy], f"{read_spec(copy).model.name} of {file}"


def averaged(files: list[Path], mirrored: bool, run: ExecutionConfig, data: PackedDataset) -> Path:
    """The model file of the mean of networks; a single one that is not mirrored is itself.

    So is one whose normalisation is folded, as that of a student's model file.
    """
    if any(read_spec(file).folded for file in files) or (len(files) == 1 and not mirrored):
        return files[0]

    def build(folder: Path) -> None:
        write_model(folder / MODEL_FILE, *average(files, mirrored))

    key = {
        "averaged": [hash_file_once(file) for file in files],
        "mirrored": mirrored,
        "data": data.digest,
    }
    return ArtifactStore(run.artifacts).get("teacher", key, build).path / MODEL_FILE


def import_teacher(run: ExecutionConfig, source: NetworkSource) -> Path:
    """The model file of a network of the user's, made at first use.

    Raises:
        ValueError: it cannot be built or traced.
    """
    network = import_network(source)
    spec = ModelSpec(
        model=network.student(), num_classes=network.recorded.num_classes, folded=False
    )

    def build(folder: Path) -> None:
        model = spec.build()
        model.load_state_dict(network.weights)
        write_model(folder / MODEL_FILE, model, spec)

    key = {"weights": network.weights_digest, "model": spec.model.digest()}
    return ArtifactStore(run.artifacts).get("import", key, build).path / MODEL_FILE


def named_file(spec: str) -> Path:
    return Path(os.path.expanduser(spec))


def network_in(file: Path) -> tuple[NetworkConfig, int]:
    """The network in a model file or in a state dict, and the number of its classes."""
    if is_model_file(file):
        spec = read_spec(file)
        return spec.model, spec.num_classes
    state = read_state_dict(file)
    return state.spec.model, state.num_classes


def copy_model(file: Path, to: Path) -> None:
    """Writes the network in a model file or in a state dict as a model file."""
    if is_model_file(file):
        to.write_bytes(file.read_bytes())
        return
    state = read_state_dict(file)
    write_model(to, state.build(), state.spec)
