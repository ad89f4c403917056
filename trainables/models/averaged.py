"""A teacher that averages the predictions of networks, and those for an image and its mirror image.

An ensemble of networks that differ in their seeds (Lakshminarayanan et al. 2017, arXiv 1612.01474)
and predictions for mirrored images, which are common when segmentation networks are evaluated
(Chen et al. 2018, arXiv 1802.02611, section 4), are better teachers than one network on one image.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models.base import Network, Outputs
from trainables.models.configs import AveragedConfig
from trainables.models.model_file import ModelSpec, read_model, read_spec

WIDTH = -1


class AveragedNetwork(Network):
    """Maps images (B,3,H,W) to logarithms (B,K,H,W) of mean probabilities of the classes.

    Args:
        networks: with the same classes and strides.
        mirrored: whether each also runs on the images mirrored left to right.
    """

    def __init__(self, networks: Sequence[nn.Module], mirrored: bool) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.mirrored = mirrored

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return self.native_outputs(images_B3HW).resize_logits(images_B3HW.shape[-2:]).logits

    def native_outputs(self, images_B3HW: Tensor) -> Outputs:
        """Averaged logits at the networks' stride; their feature maps of the images as they are.

        Feature maps of several networks are concatenated, since channels of one have nothing to do
        with those of another.
        """
        networks = [network for network in self.networks if isinstance(network, Network)]
        found = [network.native_outputs(images_B3HW) for network in networks]
        logits = [outputs.logits for outputs in found]
        if self.mirrored:
            mirrored = images_B3HW.flip(WIDTH)
            logits += [each.native_outputs(mirrored).logits.flip(WIDTH) for each in networks]
        log_probabilities = torch.stack([F.log_softmax(each.float(), dim=1) for each in logits])
        decoders = [outputs.decoder for outputs in found if outputs.decoder is not None]
        return Outputs(
            log_probabilities.logsumexp(0) - math.log(len(logits)),
            torch.cat([outputs.features for outputs in found], dim=1),
            torch.cat(decoders, dim=1) if len(decoders) == len(found) else None,
        )


def average(files: Sequence[Path], mirrored: bool) -> tuple[AveragedNetwork, ModelSpec]:
    """The mean of the networks in model files, and its specification."""
    specs = [read_spec(file) for file in files]
    model = AveragedConfig(networks=tuple(spec.model for spec in specs), mirrored=mirrored)
    return AveragedNetwork(list(map(read_model, files)), mirrored), specs[0].replace(model=model)
