"""Search spaces: `spaces/NAME.py` holds `space` and, tried first, `points_to_evaluate`."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import optuna

from trainables.config import TrialConfig

Space = Callable[[optuna.Trial], TrialConfig]
PointsToEvaluate = Sequence[Mapping[str, str | int | float]]


@dataclass(frozen=True)
class NamedSpace:
    """A space, its one-line description, and good settings to try first."""

    name: str
    description: str
    space: Space
    points_to_evaluate: PointsToEvaluate


def space_names() -> list[str]:
    """The names of all spaces: the files of this folder, but for those that begin with _."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if not name.startswith("_"))


def load_space(name: str) -> NamedSpace:
    """The space of `spaces/NAME.py`.

    Raises:
        ValueError: there is none.
    """
    names = space_names()
    if name not in names:
        near = get_close_matches(name, names) or names
        raise ValueError(
            f"--space must name a file under spaces/, but got {name!r}; did you mean "
            f"{', '.join(near)}?"
        )
    module = importlib.import_module(f"spaces.{name}")
    description = (module.__doc__ or "").strip().splitlines()[0]
    return NamedSpace(name, description, module.space, module.points_to_evaluate)
