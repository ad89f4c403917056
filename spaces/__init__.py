"""Search spaces: `spaces/NAME.py` holds `space` and, tried first, `points_to_evaluate`."""

import ast
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # names and descriptions of spaces are found without them
    import optuna

    from trainables.config import TrialConfig

Space = Callable[["optuna.Trial"], "TrialConfig"]
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


def check_name(name: str) -> None:
    """Raises ValueError where no space has this name."""
    names = space_names()
    if name not in names:
        near = get_close_matches(name, names) or names
        raise ValueError(
            f"--space must name a file under spaces/, but got {name!r}; did you mean "
            f"{', '.join(near)}?"
        )


def describe_space(name: str) -> str:
    """The first line of a space's docstring, which is read without importing the space."""
    source = Path(__path__[0], f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def load_space(name: str) -> NamedSpace:
    """The space of `spaces/NAME.py`.

    Raises:
        ValueError: there is none.
    """
    check_name(name)
    module = importlib.import_module(f"spaces.{name}")
    return NamedSpace(name, describe_space(name), module.space, module.points_to_evaluate)
