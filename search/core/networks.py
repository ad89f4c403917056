"""Networks and weights that users bring, as flags of a study or a comparison name them."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from trainables.core.terminal import print_line
from trainables.models.configs import (
    InputNormalizationName,
    NetworkSource,
    WeightSources,
)
from trainables.teachers.averaging import check_seeds

if TYPE_CHECKING:
    from trainables.models.network_source import ImportedNetwork


class NetworkChoices(Protocol):
    """The fields of a configuration that say where networks and weights come from."""

    @property
    def compress(self) -> str | None: ...
    @property
    def builder(self) -> str | None: ...
    @property
    def new_head(self) -> bool: ...
    @property
    def allow_float(self) -> bool: ...
    @property
    def backbone_weights(self) -> tuple[Path, ...] | None: ...
    @property
    def pretrained_normalization(self) -> InputNormalizationName: ...
    @property
    def teacher(self) -> str: ...
    @property
    def teacher_builder(self) -> str | None: ...
    @property
    def teacher_normalization(self) -> InputNormalizationName: ...
    @property
    def teacher_seeds(self) -> int: ...


def check_networks(config: NetworkChoices) -> None:
    """Raises ValueError where a flag lacks another that it needs."""
    for field in ("builder", "new_head", "allow_float"):
        if getattr(config, field) and config.compress is None:
            raise ValueError(f"--{field.replace('_', '-')} needs --compress")
    if config.teacher_builder and config.teacher == "auto":
        raise ValueError("--teacher-builder needs --teacher FILE")
    is_trained_here = config.teacher == "auto" and config.compress is None
    check_seeds(config.teacher_seeds, is_trained_here)


def weight_sources(config: NetworkChoices) -> WeightSources:
    """What the pretrained weights of students may be read from."""
    network = None
    if config.compress is not None:
        network = NetworkSource(
            file=config.compress,
            builder=config.builder,
            normalization=config.pretrained_normalization,
        )
    return WeightSources(backbones=config.backbone_weights or (), network=network)


def teacher_source(config: NetworkChoices) -> NetworkSource | None:
    """The network of --teacher-builder."""
    if config.teacher_builder is None:
        return None
    return NetworkSource(
        file=config.teacher,
        builder=config.teacher_builder,
        normalization=config.teacher_normalization,
        flag="--teacher",
    )


def compressed_network(config: NetworkChoices) -> "ImportedNetwork | None":
    """The network of --compress, traced; None where none is named.

    Raises:
        ConnectionError: its weights are neither cached nor to be downloaded.
        ValueError: it cannot be used.
    """
    source = weight_sources(config).network
    if source is None:
        return None
    from trainables.models.network_source import import_network  # imports PyTorch

    print_line(f"tracing {source.file}")
    network = import_network(source)
    if network.recorded.float_operations and not config.allow_float:
        raise ValueError(
            "--allow-float must be given for a network with operations on weights that no "
            f"quantizer reaches, as {', '.join(network.recorded.float_operations)} of "
            f"{network.label}"
        )
    return network
