"""torchvision's segmentation networks, pretrained on COCO with the 21 VOC labels."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.core.command_line import first_line
from trainables.core.progress import announce
from trainables.models.base import Network, Outputs
from trainables.models.configs import TorchvisionConfig, TorchvisionName
from trainables.models.model_file import ModelSpec

PRETRAINED_CLASSES = 21
DEFAULT_PRETRAINED: TorchvisionName = "deeplabv3_resnet101"


class TorchvisionModel(Network):
    """Maps images (B,3,H,W) to raw logits (B,K,H,W)."""

    def __init__(self, name: TorchvisionName, num_classes: int) -> None:
        super().__init__()
        from torchvision.models import get_model  # takes seconds to import; students do not need it

        self.network = get_model(name, weights=None, weights_backbone=None, num_classes=num_classes)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return self.native_outputs(images_B3HW).resize_logits(images_B3HW.shape[-2:]).logits

    def native_outputs(self, images_B3HW: Tensor) -> Outputs:
        """Logits at the classifier's stride, the backbone's last feature map, and the decoder's.

        The decoder's is that which the last layer classifies, at the same stride.
        """
        features: Mapping[str, Tensor] = self.network.backbone(images_B3HW)
        if "high" in features:  # LR-ASPP's head reads two feature maps and adds two sets of logits
            return Outputs(self.network.classifier(features), features["high"])
        *layers, last = self.network.classifier
        decoded = features["out"]
        for layer in layers:
            decoded = layer(decoded)
        return Outputs(last(decoded), features["out"], decoded)


def pretrained_spec(name: TorchvisionName) -> ModelSpec:
    """The specification of what `load_pretrained` gives."""
    model = TorchvisionConfig(name=name)
    return ModelSpec(model=model, num_classes=PRETRAINED_CLASSES, folded=False)


def load_pretrained(
    name: TorchvisionName, remedy: str = "choose another --teacher"
) -> TorchvisionModel:
    """The network with its COCO_WITH_VOC_LABELS_V1 weights, downloaded at first use.

    Raises:
        ConnectionError: the weights are neither in torch's cache nor to be had from the network.
        ValueError: the file in torch's cache is damaged.
    """
    from torchvision.models import get_model_weights

    weights = get_model_weights(name)["COCO_WITH_VOC_LABELS_V1"]
    model = TorchvisionModel(name, PRETRAINED_CLASSES)

    def load(state: Mapping[str, Tensor]) -> None:
        model.network.load_state_dict(without_auxiliary_head(state))

    use_download(weights, name, load, remedy)
    return model


def use_download(
    weights: Any, name: str, load: Callable[[Mapping[str, Tensor]], None], remedy: str
) -> None:
    """Loads one of torchvision's weights, which are downloaded where torch's cache has not them.

    Raises:
        ConnectionError: the weights are neither in torch's cache nor to be had from the network.
        ValueError: the file in torch's cache is damaged.
    """
    file = weights_file(weights.url)
    if not file.is_file():
        announce(f"downloading the weights of {name}")
    try:
        load(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except MemoryError:
        raise
    except Exception as error:  # broken downloads and damaged files make torch raise anything
        if file.exists():
            raise ValueError(
                f"the weights of {name} must be intact, but {file} is damaged, not readable or of "
                "another network: delete it, and it is downloaded again"
            ) from error
        raise ConnectionError(
            f"the weights of {name} must be downloadable or present, but {first_line(error)} and "
            f"there is no file {file}: put {file.name} there, or {remedy}"
        ) from error


def without_auxiliary_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without the auxiliary head, which is only used in training."""
    return {key: value for key, value in state.items() if not key.startswith("aux_classifier.")}


def weights_file(url: str) -> Path:
    """The path of a download in torch's cache."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
