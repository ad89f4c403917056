"""Networks that users bring: loaded, built by their own code if need be, and traced."""

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from trainables.core.command_line import first_line
from trainables.models.configs import (
    TORCHVISION_NAMES,
    NetworkSource,
    TracedConfig,
    build_normalization,
)
from trainables.models.model_file import read_model, read_spec
from trainables.models.state_dict import (
    check_finite,
    check_fit,
    find_weights,
    float_state,
    is_model_file,
    load,
    read_state_dict,
    strip_prefix,
)
from trainables.models.torchvision_model import load_pretrained
from trainables.models.trace_network import RecordedNetwork, record_network
from trainables.quantization.convert import ConvertedLayer
from trainables.quantization.graph import replace_module

BUILDER = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"


class ImportedNetwork(NamedTuple):
    """A traced network and what names it.

    Attributes:
        label: for tables.
        recorded: the network as data.
        weights_digest: of its state dict.
        source: where it comes from.
    """

    label: str
    recorded: RecordedNetwork
    weights_digest: str
    source: NetworkSource

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The state dict."""
        return self.recorded.weights

    def student(self, new_head: bool = False) -> TracedConfig:
        """The network as a student."""
        return TracedConfig(
            label=self.label,
            graph=self.recorded.graph.encode(),
            num_classes=self.recorded.num_classes,
            weights=self.weights_digest,
            input_normalization=self.source.normalization,
            new_head=new_head,
        )


@lru_cache(maxsize=2)
def import_network(source: NetworkSource) -> ImportedNetwork:
    """Loads and traces a network.

    Raises:
        ConnectionError: torchvision's weights are neither cached nor to be downloaded.
        ValueError: there is no such network, or it cannot be traced.
    """
    network = load_network(source)
    normalization = build_normalization(source.normalization)
    recorded = record_network(network, normalization, source.file)
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source.file).stem) or "network"
    return ImportedNetwork(label, recorded, digest_of(recorded.weights), source)


def load_network(source: NetworkSource) -> nn.Module:
    """The network in full precision."""
    if source.builder is not None:
        return build_network(source, source.builder)
    if source.file in TORCHVISION_NAMES:
        return load_pretrained(source.file, f"choose another {source.flag}")
    file = Path(source.file)
    if not file.is_file():
        raise ValueError(
            f"{source.flag} must be a model file, a state dict, or one of "
            f"{', '.join(TORCHVISION_NAMES)}, but got {source.file}"
        )
    if not is_model_file(file):
        return read_state_dict(file).build()
    if read_spec(file).quantizer is not None:
        raise ValueError(
            f"{source.flag} must name a full-precision network, but {file} is quantized"
        )
    network = read_model(file)
    for name, module in list(network.named_modules()):
        if isinstance(module, ConvertedLayer):
            replace_module(network, name, module.layer)
    return network


def build_network(source: NetworkSource, builder: str) -> nn.Module:
    """The module that a function of the user's gives, with the weights of the source's file."""
    flag, file = source.builder_flag, Path(source.file)
    if not re.fullmatch(BUILDER, builder):
        raise ValueError(f"{flag} must be PACKAGE.MODULE:FUNCTION, but got {builder!r}")
    if not file.is_file():
        raise ValueError(f"{source.flag} must be a file with weights, but there is no {file}")
    module_name, _, function_name = builder.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:  # the user's module can raise anything
        raise ValueError(
            f"{flag} must be importable, but {builder} is not: {describe(error)}"
        ) from error
    try:
        network = function()
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{flag} must build a network without arguments, but {builder} raises {describe(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"{flag} must give a torch.nn.Module, but {builder} gives a {type(network).__name__}"
        )
    load_weights(network, file)
    return network


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def load_weights(network: nn.Module, file: Path) -> None:
    """Loads all floating-point tensors of a network from a file.

    Raises:
        ValueError: one is missing, of another shape, or not finite, or the file has more.
    """
    expected, found = float_state(network), find_weights(load(file))
    while not expected.keys() <= found.keys() and (shorter := strip_prefix(found)):
        found = shorter
    check_fit(expected, found, "weights must fit the network of the builder", str(file))
    check_finite(found, file)
    network.load_state_dict({**network.state_dict(), **found})


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits that name a state dict's content."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().numpy().tobytes())
    return found.hexdigest()[:16]
