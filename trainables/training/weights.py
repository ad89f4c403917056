"""Pretrained weights of students as artifacts: fetched and checked once, before any training."""

from collections.abc import Iterable
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from trainables.config import ExecutionConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.command_line import first_line
from trainables.core.errors import TrialFailed
from trainables.data.augmentation import normalize
from trainables.data.loader import Loader
from trainables.data.packed import images_of, open_pack
from trainables.models.base import Outputs, StudentNetwork
from trainables.models.configs import StudentConfig, WeightSources

FORMAT = 1
KIND = "weights"
FILE = "weights.safetensors"
TIMES = 16
"""How much larger images are for which a stride is measured."""
NUM_IMAGES = 32
"""Images of the training split whose statistics are measured where a file has none."""


def check_students(
    students: Iterable[StudentConfig], num_classes: int, canvas: tuple[int, int]
) -> None:
    """Runs each student once, with random weights, for the data's height and width in pixels.

    On the CPU, since the meta device would load PyTorch's compiler, which takes seconds.

    Raises:
        ValueError: it is not for so many classes, or for images of this size.
    """
    side = max(canvas)
    for student in students:
        student.check_num_classes(num_classes)
        network = build_random(student, num_classes)
        try:
            outputs = outputs_of(network, canvas)
        except Exception as error:  # networks of other people's code raise anything
            size = " x ".join(map(str, canvas))
            raise ValueError(
                f"images must be large enough for {student.describe()}, and of a size that it "
                f"takes, but of {size} pixels it says: {first_line(error)}"
            ) from error
        if outputs.features[0, 0].numel() == 1:
            larger = outputs_of(network, (TIMES * side, TIMES * side))
            length = larger.features.shape[2]
            stride = TIMES * side // length
            if side < stride and length > 1:  # else it is the mean of a map
                raise ValueError(
                    f"images must have at least {stride} pixels, the stride of "
                    f"{student.describe()}, but the longest side has {side}"
                )


def build_random(student: StudentConfig, num_classes: int) -> StudentNetwork:
    """A student with random weights, which leaves the state of the random generator as it is.

    Raises:
        ValueError: it cannot be built.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return student.build(num_classes).eval()
    except ValueError:
        raise
    except Exception as error:  # networks of other people's code raise anything
        reason = f"{student.describe()} cannot be built: {first_line(error)}"
        raise ValueError(reason) from error


@torch.no_grad()
def outputs_of(network: StudentNetwork, size: tuple[int, int]) -> Outputs:
    """What a network gives for a black image of a height and width."""
    return network.native_outputs(torch.zeros(1, 3, *size))


def artifact_facts(student: StudentConfig, data: str) -> dict[str, object] | None:
    """The key of a student's pretrained weights for a data set; None where it has none."""
    key = student.weights_key()
    return None if key is None else {"format": FORMAT, "data": data, **key}


def check_weights(
    students: Iterable[StudentConfig],
    sources: WeightSources,
    store: ArtifactStore,
    data: str,
) -> None:
    """Fetches the pretrained weights of students that are no artifacts yet, and writes nothing.

    Args:
        data: the digest of the data set.

    Raises:
        ConnectionError: weights are neither cached nor to be downloaded.
        ValueError: weights are not given, damaged, or of another network.
    """
    for student, facts in distinct(students, data):
        if store.find(KIND, facts) is None:
            student.fetch_weights(sources)


def distinct(
    students: Iterable[StudentConfig], data: str
) -> list[tuple[StudentConfig, dict[str, object]]]:
    """One student for each of the pretrained weights that some students start from."""
    found: dict[str, tuple[StudentConfig, dict[str, object]]] = {}
    for student in students:
        if (facts := artifact_facts(student, data)) is not None:
            found.setdefault(str(facts), (student, facts))
    return list(found.values())


def prepare_weights(
    run: ExecutionConfig, student: StudentConfig, sources: WeightSources | None = None
) -> Path | None:
    """The file of a student's pretrained weights, made at first use; None where it has none.

    Raises:
        ConnectionError: the weights are neither cached nor to be downloaded.
        ValueError: the weights are not given, damaged, or of another network.
    """
    facts = artifact_facts(student, run.data.name)
    if facts is None:
        return None

    def build(folder: Path) -> None:
        train = open_pack(run.data).train
        batch = next(Loader(train, torch.device("cpu")).in_order(min(NUM_IMAGES, len(train))))
        weights = student.fetch_weights(sources or WeightSources(), normalize(images_of(batch)))
        tensors = {name: tensor.contiguous() for name, tensor in weights.items()}
        safetensors.torch.save_file(tensors, folder / FILE)

    return ArtifactStore(run.artifacts).get(KIND, facts, build).path / FILE


def initialize(student: nn.Module, config: StudentConfig, run: ExecutionConfig) -> None:
    """Loads pretrained weights into a student, where its configuration has any.

    Raises:
        TrialFailed: they are no artifact, and neither cached nor to be downloaded.
    """
    try:
        file = prepare_weights(run, config)
    except (ConnectionError, ValueError) as error:
        raise TrialFailed(str(error)) from error
    if file is not None:
        config.initialize(student, safetensors.torch.load_file(file))
