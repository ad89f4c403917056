"""Measures the sensitivity of layers to quantization, once per student and quantizer."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore, present
from trainables.core.terminal import track
from trainables.data.augmentation import normalize
from trainables.data.loader import Loader
from trainables.data.packed import images_of, open_pack
from trainables.models.base import to_device
from trainables.models.model_file import NETWORK_FILE, read_model
from trainables.quantization.bits import FULL_PRECISION, LayerBits
from trainables.quantization.mixed_precision import CHOICES, Sensitivity
from trainables.quantization.prepare import (
    LayerRoles,
    calibrate,
    find_layer_roles,
    prepare,
    quantizable_names,
)
from trainables.quantization.quantizers.configs import DEFAULT_QUANTIZER, QuantizerName
from trainables.training.identity import ARTIFACT_KIND, artifact_key
from trainables.training.trial import TRAINING_START, train_or_find

FORMAT = 2
NUM_IMAGES = 8
FILE = "sensitivity.json"


def cache_sensitivity(
    start: TrialConfig,
    run: ExecutionConfig,
    kind: QuantizerName,
    description: str = TRAINING_START,
) -> Path:
    """The artifact of the sensitivity of a pretrained student, which is trained if necessary.

    `kind` names the quantizer that it is measured with; the training's progress is reported as
    `description`.

    Raises:
        TrialFailed: the pretraining learned nothing.
    """
    network = train_or_find(start, run, description=description).path

    def build(folder: Path) -> None:
        data, device = open_pack(run.data), torch.device(run.device)
        images = normalize(images_of(next(Loader(data.train, device).in_order(NUM_IMAGES))))
        student = to_device(read_model(network / NETWORK_FILE), device)
        measured = measure_sensitivity(student, images, kind)
        (folder / FILE).write_text(measured.model_dump_json(indent=1))

    key = sensitivity_key(network, kind)
    return ArtifactStore(run.artifacts).get("sensitivity", key, build).path / FILE


def find_sensitivity(run: ExecutionConfig, start: TrialConfig, kind: QuantizerName) -> Path | None:
    """The same if it is cached already; None otherwise."""
    store = ArtifactStore(run.artifacts)
    network = store.path(ARTIFACT_KIND, artifact_key(start, run, store))
    found = store.find("sensitivity", sensitivity_key(network, kind))
    return found.path / FILE if found else None


def sensitivity_key(network: Path, kind: QuantizerName) -> dict[str, object]:
    key: dict[str, object] = {"format": FORMAT, "start": network.name}
    if kind != DEFAULT_QUANTIZER.name:
        key["quantizer"] = kind  # earlier versions measured the default one alone
    return key


def read_sensitivity(path: Path) -> Sensitivity:
    """Reads the artifact of `cache_sensitivity`."""
    return Sensitivity.model_validate_json(present(path).read_bytes())


@torch.no_grad()
def measure_sensitivity(
    student: nn.Module, images: Tensor, kind: QuantizerName = DEFAULT_QUANTIZER.name
) -> Sensitivity:
    """Quantizes the weights, then the inputs, of one layer at a time; images (B,3,H,W).

    `kind` names the quantizer. The inputs of layers that read the same tensor are quantized
    together.
    """
    student.eval()
    names = quantizable_names(student)
    roles = find_layer_roles(student)
    expected = F.log_softmax(student(images), dim=1)

    def loss(layers: dict[str, LayerBits]) -> float:
        off = DEFAULT_QUANTIZER.of_kind(kind).replace(
            weight_bits=FULL_PRECISION, activation_bits=FULL_PRECISION, layers=layers
        )
        quantized = prepare(copy.deepcopy(student), off, roles=roles).to(images.device)
        calibrate(quantized, images)
        predicted = F.log_softmax(quantized(images), dim=1)
        divergence = F.kl_div(predicted, expected, reduction="sum", log_target=True)
        return float(divergence) / (expected.numel() / expected.shape[1])

    readers = find_readers(roles)
    counts = count_inputs(student, images[:1])
    weights = {
        name: {
            bits: loss({name: LayerBits(weight_bits=bits, activation_bits=FULL_PRECISION)})
            for bits in CHOICES
        }
        for name in track(names, "measuring the sensitivity of weights", "layer")
    }
    inputs = {
        first: {
            bits: loss(
                dict.fromkeys(group, LayerBits(weight_bits=FULL_PRECISION, activation_bits=bits))
            )
            for bits in CHOICES
        }
        for first, group in track(
            list(readers.items()), "measuring the sensitivity of inputs", "layer"
        )
    }
    return Sensitivity(
        weights=weights,
        inputs=inputs,
        num_weights={name: student.get_parameter(f"{name}.weight").numel() for name in names},
        num_inputs={
            first: sum(counts[reader] for reader in group) for first, group in readers.items()
        },
        readers=readers,
    )


def find_readers(roles: LayerRoles) -> dict[str, tuple[str, ...]]:
    """Names of layers that share a grid by the first of them, without those that read sums."""
    groups = {name: group for group in roles.input_groups for name in group}
    shared = [groups.get(name, (name,)) for name in roles.names]
    return {group[0]: group for group in shared if not {*group} & {*roles.additions}}


def count_inputs(student: nn.Module, image: Tensor) -> dict[str, int]:
    """Elements that each layer reads for one image."""
    counts: dict[str, int] = {}
    hooks = [
        student.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: counts.update({name: inputs[0].numel()})
        )
        for name in quantizable_names(student)
    ]
    student(image)
    for hook in hooks:
        hook.remove()
    return counts
