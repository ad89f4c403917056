"""Outlines of networks: their modules with the shapes of all tensors, built in little time.

PyTorch takes 0.1 to 0.4 ms to build and to initialise a convolution or a BatchNorm, even on the
meta device, and a network has up to a hundred of them. The modules of an outline are therefore
copies, in other sizes, of a module that was built once with the same options.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor, nn

from trainables.models.backbones import Backbone
from trainables.models.base import Network
from trainables.models.configs import NetworkConfig

Sizes = int | tuple[int, int]
"""One number for height and width, or one for each."""
MAX_TENSORS = 4096
"""Shapes of tensors that are kept, each some hundred bytes."""
is_open = ContextVar("is_open", default=False)
"""Whether `replacements` is open in this thread."""


def build_outline(network: NetworkConfig, num_classes: int) -> Network:
    """The network of a configuration on the meta device, without being initialised.

    Modules share the tensors that are equal in name and shape, and networks share backbones, so
    that an outline must not be changed.
    """
    with torch.device("meta"), replacements():
        return network.build(num_classes)


@contextmanager
def replacements() -> Iterator[None]:
    """While it is open, constructors copy modules, and functions of `nn.init` do nothing.

    That holds for the thread that opens it. What replaces them works as ever for other threads, and
    afterwards for modules that are imported meanwhile and keep it.
    """
    token = is_open.set(True)
    try:
        for (holder, name), (_, replacement) in REPLACEMENTS.items():
            setattr(holder, name, replacement)
        yield
    finally:
        for (holder, name), (original, _) in REPLACEMENTS.items():
            setattr(holder, name, original)
        is_open.reset(token)


def copy_convolution(
    layer: nn.Conv2d,
    in_channels: int,
    out_channels: int,
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    *options: Any,
    **named: Any,
) -> None:
    """Takes the place of the constructor of `nn.Conv2d`."""
    sizes = (kernel_size, stride, padding, dilation)
    one = build_once(nn.Conv2d, 1, 1, *sizes, 1, *options, **named)
    weight = (out_channels, in_channels // groups, *one.kernel_size)
    copy_module(one, layer, {"weight": weight, "bias": (out_channels,)})
    vars(layer).update(in_channels=in_channels, out_channels=out_channels, groups=groups)


def copy_transposed_convolution(
    layer: nn.ConvTranspose2d,
    in_channels: int,
    out_channels: int,
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    *options: Any,
    **named: Any,
) -> None:
    """Takes the place of the constructor of `nn.ConvTranspose2d`."""
    sizes = (kernel_size, stride, padding, output_padding)
    one = build_once(nn.ConvTranspose2d, 1, 1, *sizes, 1, *options, **named)
    weight = (in_channels, out_channels // groups, *one.kernel_size)
    copy_module(one, layer, {"weight": weight, "bias": (out_channels,)})
    vars(layer).update(in_channels=in_channels, out_channels=out_channels, groups=groups)


def copy_norm(layer: nn.BatchNorm2d, num_features: int, *options: Any, **named: Any) -> None:
    """Takes the place of the constructor of `nn.BatchNorm2d`."""
    one = build_once(nn.BatchNorm2d, 1, *options, **named)
    vectors = ("weight", "bias", "running_mean", "running_var")
    copy_module(one, layer, dict.fromkeys(vectors, (num_features,)))
    vars(layer).update(num_features=num_features)


def copy_backbone(backbone: Backbone, *options: Any, **named: Any) -> None:
    """Takes the place of the constructor of `Backbone`."""
    copy_module(build_once(Backbone, *options, **named), backbone, {})


def copy_module(one: nn.Module, other: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Makes a module like another but for the shapes of some tensors, given by their names."""
    parameters = {
        name: None if tensor is None else parameter(name, shapes[name])
        for name, tensor in one._parameters.items()
    }
    buffers = {
        name: buffer(name, shapes[name]) if name in shapes and tensor is not None else tensor
        for name, tensor in one._buffers.items()
    }
    modules = dict(one._modules)
    vars(other).update(vars(one), _parameters=parameters, _buffers=buffers, _modules=modules)


@lru_cache(maxsize=512)
def build_once(module_type: type[nn.Module], *options: Any, **named: Any) -> Any:
    """The module of some options; it must not be changed."""
    module = module_type.__new__(module_type)
    CONSTRUCTORS[module_type](module, *options, **named)
    return module


@lru_cache(maxsize=MAX_TENSORS)
def parameter(name: str, shape: tuple[int, ...]) -> nn.Parameter:
    """The parameter of this name and shape in all modules."""
    return nn.Parameter(torch.empty(shape))


@lru_cache(maxsize=MAX_TENSORS)
def buffer(name: str, shape: tuple[int, ...]) -> Tensor:
    """The buffer of this name and shape in all modules."""
    return torch.empty(shape)


COPIES: Mapping[type[nn.Module], Callable[..., None]] = {
    nn.Conv2d: copy_convolution,
    nn.ConvTranspose2d: copy_transposed_convolution,
    nn.BatchNorm2d: copy_norm,
    Backbone: copy_backbone,
}
"""By the type of a module, what takes the place of its constructor."""
CONSTRUCTORS = {module_type: module_type.__init__ for module_type in COPIES}


def copying(module_type: type[nn.Module]) -> Callable[..., None]:
    """A constructor that copies a module of exactly this type, if its options are no lists.

    A subclass may rely on what the constructor does.
    """
    copy, construct = COPIES[module_type], CONSTRUCTORS[module_type]

    def build(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        has_list = any(type(each) is list for each in (*args, *kwargs.values()))
        is_copied = is_open.get() and type(self) is module_type and not has_list
        (copy if is_copied else construct)(self, *args, **kwargs)

    return build


def skipping(initialize: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that leaves a tensor as it is."""

    @wraps(initialize)
    def skip(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor if is_open.get() else initialize(tensor, *args, **kwargs)

    return skip


INITIALIZERS = [getattr(nn.init, name) for name in dir(nn.init) if re.fullmatch("[a-z].*_", name)]
REPLACEMENTS: Mapping[tuple[object, str], tuple[object, object]] = {
    **{(kind, "__init__"): (CONSTRUCTORS[kind], copying(kind)) for kind in COPIES},
    **{(nn.init, each.__name__): (each, skipping(each)) for each in INITIALIZERS},
}
"""By objects and names of their attributes, the values of these, and what replaces them."""
