"""State dicts of torchvision's segmentation networks, recognised by their keys and shapes."""

import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeGuard

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from trainables.models.configs import TORCHVISION_NAMES, TorchvisionConfig, TorchvisionName
from trainables.models.model_file import ModelSpec
from trainables.models.torchvision_model import TorchvisionModel, without_auxiliary_head

WRAPPINGS = (
    "model",
    "state_dict",
    "model_state_dict",
    "net",
    "network",
    "teacher",
    "ema",
    "model_ema",
)
"""Keys under which training checkpoints hold the weights; the first that has any is used."""
PREFIXES = ("module.", "model.", "_orig_mod.", "network.", "net.")
"""Prefixes that wrappers of a module add to its keys."""
HEADS = ("classifier.4.", "classifier.low_classifier.", "classifier.high_classifier.")
"""The convolutions that have one output channel for each class."""
TORCHSCRIPT_RECORD = "constants.pkl"
"""The name of a file that archives of TorchScript hold and those of `torch.save` do not."""
COUNTER = "num_batches_tracked"
"""The end of keys of BatchNorm's counters, which are floats where all was cast to a type."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class StateDict:
    """The weights of one of torchvision's networks, in float32, without its auxiliary head."""

    name: TorchvisionName
    num_classes: int
    weights: Mapping[str, Tensor]

    @property
    def spec(self) -> ModelSpec:
        """The spec of the network that `build` gives."""
        config = TorchvisionConfig(name=self.name)
        return ModelSpec(model=config, num_classes=self.num_classes, folded=False)

    def build(self) -> TorchvisionModel:
        """The network with these weights, in evaluation mode."""
        model = TorchvisionModel(self.name, self.num_classes)
        model.network.load_state_dict(self.weights)
        return model.eval()


def is_model_file(path: Path) -> bool:
    """Whether a file is one of this project's own, of whatever version."""
    try:
        with safetensors.safe_open(path, "np") as file:
            return "paretoseg" in (file.metadata() or {})
    except safetensors.SafetensorError:
        return False


def read_state_dict(path: Path) -> StateDict:
    """Reads the tensors of a file in the format of safetensors or of `torch.save`.

    The weights may be wrapped in the checkpoint of a training, and their keys may have prefixes.
    Only floating-point tensors count: what else is there (counters, the optimizer) does not change
    what the network computes.

    Raises:
        ValueError: it holds other objects than tensors, or no intact torchvision network.
    """
    weights = find_weights(load(path))
    if not weights:
        raise ValueError(f"a state dict must hold floating-point tensors, but {path} holds none")
    weights = without_auxiliary_head(strip_prefixes(weights))
    num_classes = count_classes(weights)
    name = recognize(path, weights, num_classes)
    if not 2 <= num_classes <= 255:
        raise ValueError(f"a network must have 2 to 255 classes, but {path} has {num_classes}")
    weights = {key: tensor.detach().float() for key, tensor in weights.items()}
    check_finite(weights, path)
    return StateDict(name, num_classes, weights)


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raises ValueError where a tensor of a file holds NaN or infinity."""
    for key, tensor in weights.items():
        if not tensor.isfinite().all():
            raise ValueError(f"weights must be finite, but {key} in {path} holds NaN or infinity")


def check_fit(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], rule: str, origin: str
) -> None:
    """Checks that found tensors have the keys and the shapes of the expected ones.

    Args:
        rule: begins the message, as "weights must fit the network".
        origin: of the found tensors, for the message.

    Raises:
        ValueError: the first key that is missing, the first that is not known, or the first tensor
            of another shape is named.
    """
    missing = [key for key in expected if key not in found]
    unknown = [key for key in found if key not in expected]
    if missing or unknown:
        differences = [f"lacks {missing[0]!r}"] if missing else []
        differences += [f"has {unknown[0]!r}, which is not known there"] if unknown else []
        raise ValueError(f"{rule}, but {origin} {' and '.join(differences)}")
    for key, tensor in expected.items():
        if tensor.shape != found[key].shape:
            raise ValueError(
                f"{rule}, but {key!r} of {origin} has the shape {tuple(found[key].shape)} instead "
                f"of {tuple(tensor.shape)}"
            )


def float_state(network: nn.Module) -> dict[str, Tensor]:
    """The tensors that determine what a network computes."""
    state = network.state_dict()
    return {key: tensor for key, tensor in state.items() if tensor.is_floating_point()}


def load(path: Path) -> object:
    """Loads a file, whose format is recognised by its content, not by its ending."""
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, on old formats
        is_safetensors = file.read(9)[8:] == b"{"
        file.seek(0)
        try:
            if is_safetensors:
                return dict(sorted(safetensors.torch.load_file(path).items(), key=in_order))
            with torch.serialization.safe_globals([Namespace]):  # in torchvision's checkpoints
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged files make torch raise anything
            raise ValueError(
                f"a state dict must be an intact file of tensors alone, but {path} "
                f"{describe_refusal(path)}: write it by torch.save(model.state_dict(), FILE) or "
                "safetensors.torch.save_file"
            ) from error


def in_order(item: tuple[str, Tensor]) -> list[str | int]:
    """A key by which module 2 comes before module 10; a file of safetensors has no order."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", item[0])]


def describe_refusal(path: Path) -> str:
    """A description of why a file cannot be loaded, by its content."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).name for name in archive.namelist()}
        if TORCHSCRIPT_RECORD in names:
            return "is a TorchScript archive"
        with torch.serialization.safe_globals([Namespace]):
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # damaged files make torch raise anything
        unsafe = []
    return f"holds {min(unsafe)!r}" if unsafe else "is damaged or of another format"


def find_weights(content: object, depth: int = 2) -> dict[str, Tensor]:
    """The floating-point tensors of a checkpoint, which may be wrapped `depth` times."""
    if not isinstance(content, Mapping):
        return {}
    for name in WRAPPINGS if depth else ():
        if found := find_weights(content.get(name), depth - 1):
            return found
    return {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and is_weight(value) and not key.endswith(COUNTER)
    }


def is_weight(value: object) -> TypeGuard[Tensor]:
    """Whether it is a dense tensor, not on the meta device, that can be converted to float32."""
    return (
        isinstance(value, Tensor)
        and value.dtype in FLOATS
        and value.layout == torch.strided
        and not value.is_meta
    )


def strip_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without prefixes that all keys have."""
    while shorter := strip_prefix(weights):
        weights = shorter
    return weights


def strip_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the first prefix, if all keys have it; else none."""
    for prefix in PREFIXES:
        if weights and all(key.startswith(prefix) for key in weights):
            return {key[len(prefix) :]: weights[key] for key in weights}
    return {}


def count_classes(weights: Mapping[str, Tensor]) -> int:
    """The output channels of the last convolution; none where there is no such convolution."""
    heads = (tensor for key, tensor in weights.items() if key.startswith(HEADS) and tensor.ndim)
    return next((len(tensor) for tensor in heads), 0)


def recognize(path: Path, weights: Mapping[str, Tensor], num_classes: int) -> TorchvisionName:
    """The network that has exactly these keys and shapes.

    Raises:
        ValueError: there is none; the message says how the nearest differs.
    """
    found = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    known = {name: shapes(name, num_classes) for name in TORCHVISION_NAMES}
    matching = {name: len(known[name].items() & found.items()) for name in known}
    # A ResNet-101 network has all weights of the ResNet-50 one: prefer the smaller in a tie
    nearest = max(known, key=lambda name: (matching[name], -len(known[name])))
    if known[nearest] == found:
        return nearest
    raise ValueError(
        f"a state dict must be that of one of {', '.join(TORCHVISION_NAMES)}, but {path} is not: "
        f"it has {matching[nearest]} of the {len(known[nearest])} weights of the nearest, "
        f"{nearest}, and differs first in {difference(known[nearest], found)}; a network of your "
        "own needs --builder or --teacher-builder, which gives its module"
    )


def difference(expected: Shapes, found: Shapes) -> str:
    for key, shape in expected.items():
        if key not in found:
            return f"{key!r}, which is missing"
        if found[key] != shape:
            return f"{key!r}, whose shape is {found[key]} and not {shape}"
    return f"{next(key for key in found if key not in expected)!r}, which is not known there"


def shapes(name: TorchvisionName, num_classes: int) -> Shapes:
    """The shapes of the weights of a network for `num_classes` classes."""
    return {
        key: (num_classes, *shape[1:]) if key.startswith(HEADS) else shape
        for key, shape in shapes_of_two_classes(name).items()
    }


@cache
def shapes_of_two_classes(name: TorchvisionName) -> Shapes:
    with torch.device("meta"):
        state = TorchvisionModel(name, num_classes=2).network.state_dict()
    return {key: tuple(tensor.shape) for key, tensor in state.items() if tensor.dtype in FLOATS}
