"""Short names of parameters, which spaces name by their path in `TrialConfig`."""

from collections import Counter
from collections.abc import Iterable, Mapping

from trainables.core.config_base import Leaf

CONTAINERS = ("recipe", "student", "quantizer", "optimizer", "losses")
"""Parts of a path that say where a parameter is, but not what it is."""


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """By path a name such as `weight_bits` of recipe.quantizer.weight_bits.

    The name of a part is that of the part: `student` is short for student.name. Paths that would
    share a name keep their own.
    """
    found = {path: short_name(path) for path in paths}
    number = Counter(found.values())
    return {path: name if number[name] == 1 else path for path, name in found.items()}


def short_name(path: str) -> str:
    parts = path.removesuffix(".name").split(".")
    while len(parts) > 1 and parts[0] in CONTAINERS:
        del parts[0]
    return ".".join(parts)


def written_params(params: Mapping[str, Leaf]) -> dict[str, str]:
    """The values of parameters by their short names."""
    names = short_names(params)
    return {names[path]: written(value) for path, value in params.items()}


def written(value: Leaf) -> str:
    """A value with as many digits as a person reads; the configuration of a trial has them all."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
