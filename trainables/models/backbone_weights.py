"""Pretrained weights of backbones: torchvision's, or those of a file, or of a package.

The convolutions of a file may hold their normalisation, or be followed by one that only adds. Then
normalisation gets the statistics of images without a change of what the backbone computes, so that
training on batches of such images also begins with what the file computes.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from trainables.core.optional_dependencies import require_backbone_weights
from trainables.models.backbones import Backbone
from trainables.models.configs import IN_PACKAGES, EncoderDecoderConfig
from trainables.models.state_dict import (
    check_finite,
    check_fit,
    find_weights,
    float_state,
    load,
    strip_prefixes,
)
from trainables.models.torchvision_model import use_download, weights_file

State = Mapping[str, Tensor]


def imagenet_file_name(backbone: str) -> str:
    """The name of the file of public ImageNet weights, which holds their hash."""
    if backbone in IN_PACKAGES:
        return packaged_file(backbone).name
    from torchvision.models import get_model_weights

    return weights_file(get_model_weights(backbone).DEFAULT.url).name


def packaged_file(backbone: str) -> Path:
    """The file of weights inside a package.

    Raises:
        ValueError: the package is not installed.
    """
    require_backbone_weights(IN_PACKAGES[backbone])
    package = find_spec(IN_PACKAGES[backbone].replace("-", "_"))
    assert package is not None
    folders = [Path(folder) for folder in package.submodule_search_locations or ()]
    return next(file for folder in folders for file in sorted(folder.rglob("*.pth")))


def download_weights(backbone: str) -> State:
    """torchvision's ImageNet weights.

    Raises:
        ConnectionError: the weights are neither in torch's cache nor to be had from the network.
        ValueError: the file in torch's cache is damaged.
    """
    from torchvision.models import get_model_weights

    loaded: dict[str, Tensor] = {}
    remedy = "choose students without pretrained weights"
    use_download(get_model_weights(backbone).DEFAULT, backbone, loaded.update, remedy)
    return find_weights(loaded)


def read_weights(path: Path) -> State:
    """The floating-point tensors of a file in the format of safetensors or of `torch.save`.

    Raises:
        ValueError: it holds other objects than tensors, no tensors, or NaN or infinity.
    """
    weights = find_weights(load(path))
    if not weights:
        raise ValueError(f"backbone weights must be floating-point tensors, but {path} holds none")
    weights = {key: tensor.float() for key, tensor in strip_prefixes(weights).items()}
    check_finite(weights, path)
    return weights


def fetch_backbone_weights(
    config: EncoderDecoderConfig, file: Path | None, images_B3HW: Tensor | None
) -> State:
    """The state dict of the backbone of a student, from torchvision where there is no file.

    Raises:
        ConnectionError: the weights are neither in torch's cache nor to be had from the network.
        ValueError: the weights are damaged or do not fit the backbone.
    """
    if file is None and config.backbone in IN_PACKAGES:
        file = packaged_file(config.backbone)
    weights = read_weights(file) if file else download_weights(config.backbone)
    with torch.random.fork_rng(devices=[]):
        network = config.build(num_classes=2)
    backbone = network.get_submodule("backbone")
    assert isinstance(backbone, Backbone)
    origin = str(file) if file else f"torchvision's {config.backbone}"
    load_weights(backbone, weights, origin)
    if images_B3HW is not None and not has_statistics(backbone):
        with torch.no_grad():
            measure_statistics(backbone, network.get_submodule("normalization")(images_B3HW))
    return backbone.state_dict()


def load_weights(backbone: Backbone, weights: State, origin: str) -> None:
    """Loads the weights of a classifier into its backbone.

    Raises:
        ValueError: a tensor is missing, not known or of another shape; `origin` names the weights.
    """
    expected, found = float_state(backbone.network), weights
    if not expected.keys() <= found.keys():
        found = insert_norms(backbone, weights) or match_by_order(expected, weights) or weights
    heads = tuple(f"{prefix}." for prefix in backbone.architecture.head)
    kept = {k: v for k, v in found.items() if k in expected or not k.startswith(heads)}
    check_fit(expected, kept, "backbone weights must fit the student's backbone", origin)
    backbone.network.load_state_dict({key: found[key] for key in expected}, strict=False)


def count_known_keys(config: EncoderDecoderConfig, file: Path) -> int:
    """The tensors of a file whose names and shapes are those of a student's backbone."""
    with torch.device("meta"):
        backbone = config.build(num_classes=2).get_submodule("backbone")
    assert isinstance(backbone, Backbone)
    found = {key: tensor.shape for key, tensor in read_weights(file).items()}
    expected = float_state(backbone.network)
    return sum(found.get(key) == tensor.shape for key, tensor in expected.items())


def insert_norms(backbone: Backbone, weights: State) -> dict[str, Tensor] | None:
    """Weights without normalisation, with one that does nothing but add a convolution's bias.

    The keys may be those of a convolution or of the module that holds it with its normalisation.
    None where weights are not of this kind.
    """
    left, unfolded = dict(weights), dict[str, Tensor]()
    for conv, norm in conv_norm_pairs(backbone.network):
        holder = conv.rpartition(".")[0]
        name = next((name for name in (conv, holder) if f"{name}.bias" in left), None)
        if name is None or f"{name}.weight" not in left:
            return None
        bias = left.pop(f"{name}.bias")
        unfolded[f"{conv}.weight"] = left.pop(f"{name}.weight")
        eps = backbone.network.get_submodule(norm).eps
        assert isinstance(eps, float)
        unfolded |= {
            f"{norm}.weight": torch.full_like(bias, (1 + eps) ** 0.5),
            f"{norm}.bias": bias,
            f"{norm}.running_mean": torch.zeros_like(bias),
            f"{norm}.running_var": torch.ones_like(bias),
        }
    return {**left, **unfolded}


def match_by_order(expected: State, weights: State) -> dict[str, Tensor] | None:
    """Weights of the same network whose modules have other names, in the same order.

    The tensors of each module may be in any order, as safetensors sorts them. What follows in a
    file, as its classifier, is left out. None where weights are not of this kind.
    """
    modules, others = by_module(expected), by_module(weights)
    pairs = list(zip(modules.items(), others.items(), strict=False))
    found = {
        f"{name}.{part}": tensors.get(part)
        for (name, wanted), (_, tensors) in pairs
        for part in wanted
    }
    matched = {key: tensor for key, tensor in found.items() if tensor is not None}
    shapes = {key: tensor.shape for key, tensor in matched.items()}
    if shapes != {key: tensor.shape for key, tensor in expected.items()}:
        return None
    return matched


def by_module(weights: State) -> dict[str, dict[str, Tensor]]:
    """The tensors of each module by their names in it, in the order of the modules."""
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        name, _, part = key.rpartition(".")
        modules.setdefault(name, {})[part] = tensor
    return modules


def conv_norm_pairs(network: nn.Module) -> list[tuple[str, str]]:
    """Names of the convolutions, each with that of the normalisation registered after it."""
    named = network.named_modules()
    layers = [(n, m) for n, m in named if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    return [
        (conv, norm)
        for (conv, one), (norm, other) in pairwise(layers)
        if isinstance(one, nn.Conv2d) and isinstance(other, nn.BatchNorm2d)
    ]


def has_statistics(backbone: Backbone) -> bool:
    """Whether any normalisation has other statistics than those of an untrained one."""
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    return any(norm.running_mean is not None and norm.running_mean.any() for norm in norms)


@torch.no_grad()
def measure_statistics(backbone: Backbone, images_B3HW: Tensor) -> None:
    """Gives each normalisation the statistics of images, and leaves what it computes as it is."""
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
    backbone.eval()(images_B3HW)
    for hook in hooks:
        hook.remove()
    backbone.train()


def set_statistics(norm: nn.Module, inputs: tuple[Tensor]) -> None:
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    bias = norm.bias - gain * norm.running_mean
    variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(gain * (variance + norm.eps).sqrt())
    norm.bias.copy_(bias + gain * mean)
