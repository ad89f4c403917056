"""Configurations of the networks: students, and networks that only serve as teachers.

No file of the training framework is imported before a network is built.
"""

from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from pydantic import Field

from trainables.core.config_base import TaggedConfig

if TYPE_CHECKING:
    from torch import nn

    from trainables.models.base import Network, StudentNetwork


class NetworkConfig(TaggedConfig):
    """The configuration of a segmentation network, which determines its architecture."""

    def build(self, num_classes: int) -> "Network":
        """A network for `num_classes` classes, initialised from torch's random state."""
        raise NotImplementedError

    def describe(self) -> str:
        """A short name for tables, such as "unet 8"."""
        return self.name


class StudentConfig(NetworkConfig):
    """The configuration of a student, which may start from pretrained weights."""

    default_name: ClassVar[str | None] = "unet"

    def build(self, num_classes: int) -> "StudentNetwork":
        """The same, with the groups of layers that quantization needs."""
        raise NotImplementedError

    def initialize(self, network: "nn.Module") -> None:
        """Loads the pretrained weights of this family into a built network, where there are any.

        Raises:
            ConnectionError: the weights are neither cached nor downloadable.
        """


class UNetConfig(StudentConfig):
    """A U-Net whose encoder halves the resolution `depth` times; channels double from `width`."""

    name: Literal["unet"] = "unet"
    width: int = Field(16, ge=1, le=512, description="channels at full resolution")
    depth: int = Field(4, ge=1, le=6, description="number of halvings of the resolution")
    upsampling: Literal["transposed", "bilinear"] = "transposed"

    def build(self, num_classes: int) -> "StudentNetwork":
        from trainables.models.unet import UNet

        return UNet(self.width, self.depth, self.upsampling, num_classes)

    def describe(self) -> str:
        """Name and width, and other fields that differ from the default."""
        depth = (
            "" if self.depth == UNetConfig.model_fields["depth"].default else f" depth {self.depth}"
        )
        upsampling = "" if self.upsampling == "transposed" else f" {self.upsampling}"
        return f"{self.name} {self.width}{depth}{upsampling}"


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


DEFAULT_STUDENT = UNetConfig()
SMALL_TEACHER, LARGE_TEACHER = UNetConfig(width=16), UNetConfig(width=64)
"""Teachers that are trained where none is given: on a CPU, and on a GPU."""
