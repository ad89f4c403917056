"""Segmentation networks: students and teachers."""

from typing import Annotated

from pydantic import Field

from trainables.models.torchvision_model import TorchvisionConfig
from trainables.models.unet import UNetConfig

Model = Annotated[UNetConfig | TorchvisionConfig, Field(discriminator="name")]
