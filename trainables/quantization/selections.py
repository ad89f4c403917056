"""Operations that move values and compute none, so that integers on a grid stay on it."""

from typing import Any

from torch import fx, nn

CALLS = frozenset(["call_module", "call_function", "call_method"])
"""The kinds of nodes that compute something."""
MOVES = frozenset(
    [
        *("cat", "concat", "concatenate", "chunk", "split", "getitem"),
        *("view", "reshape", "flatten", "unflatten", "permute", "transpose"),
        *("squeeze", "unsqueeze", "expand", "repeat", "contiguous", "detach"),
        *("dropout", "dropout2d", "identity"),
        *("maxpool2d", "adaptivemaxpool2d", "pixelshuffle", "pixelunshuffle", "channelshuffle"),
        *("zeropad2d", "reflectionpad2d", "replicationpad2d", "upsamplingnearest2d"),
    ]
)
"""By `operation_name`: operations that move values whatever their options are."""
RESIZES = frozenset(["interpolate", "upsample"])
PADS = frozenset(["pad", "constantpad2d"])


def operation_name(node: fx.Node, module: nn.Module | None) -> str:
    """The name of an operation in lower case, the same for a module, a function and a method."""
    if module is not None:
        name = type(module).__name__
    else:
        name = node.target if isinstance(node.target, str) else node.target.__name__
    return name.lower().replace("_", "")


def is_selection(node: fx.Node, name: str, module: nn.Module | None) -> bool:
    """Whether an operation gives values of its inputs, and none beside them but zeros.

    `name` is its `operation_name`, `module` what it calls, if it calls one.
    """
    if name in RESIZES:
        mode: str = option(node, module, 3, "mode", "nearest")
        return mode.startswith("nearest")
    if name in PADS:
        return not option(node, module, 3, "value", None)
    return name in MOVES


def option(node: fx.Node, module: nn.Module | None, place: int, name: str, default: Any) -> Any:
    """An attribute of the module, or an argument of the function, that a node calls."""
    if module is not None:
        return getattr(module, name)
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)
