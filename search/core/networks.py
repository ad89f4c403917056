"""Networks and weights that users bring, as flags of a study or a comparison name them."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from trainables.core.terminal import print_step
from trainables.models.configs import (
    InputNormalizationName,
    NetworkSource,
    StudentConfig,
    WeightSources,
)
from trainables.models.student_list import complete_teacher
from trainables.teachers.averaging import check_seeds, is_trained_here

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
    def teacher(self) -> str | StudentConfig: ...
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
    if config.teacher_builder and is_trained_here(config.teacher):
        raise ValueError("--teacher-builder needs --teacher FILE")
    comes_trained = config.teacher == "auto" and config.compress is not None
    check_seeds(config.teacher_seeds, is_trained_here(config.teacher) and not comes_trained)


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
    assert isinstance(config.teacher, str), "check_networks has looked"
    return NetworkSource(
        file=config.teacher,
        builder=config.teacher_builder,
        normalization=config.teacher_normalization,
        flag="--teacher",
    )


def named_teachers(config: NetworkChoices) -> list[StudentConfig]:
    """The student that --teacher names; none where it names something else."""
    return [config.teacher] if isinstance(config.teacher, StudentConfig) else []


def completed_teacher(config: NetworkChoices) -> str | StudentConfig:
    """What --teacher names; a student with the weights of --backbone-weights that fit it."""
    if isinstance(config.teacher, str):
        return config.teacher
    files = config.backbone_weights or ()
    return complete_teacher(config.teacher, files, config.pretrained_normalization)


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

    print_step(f"tracing {source.file}")
    network = import_network(source)
    if network.recorded.float_operations and not config.allow_float:
        raise ValueError(
            "--allow-float must be given for a network with operations on weights that no "
            f"quantizer reaches, as {', '.join(network.recorded.float_operations)} of "
            f"{network.label}"
        )
    return network
