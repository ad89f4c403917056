"""Short names of parameters, which spaces name by their path in `TrialConfig`."""

from collections import Counter
from collections.abc import Iterable

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
