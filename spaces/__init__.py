"""Search spaces: `spaces/NAME.py` holds `space` and, tried first, `points_to_evaluate`."""

import ast
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.models.configs import StudentConfig, UNetConfig

if TYPE_CHECKING:  # names and descriptions of spaces are found without them
    import optuna

    from trainables.config import TrialConfig

Space = Callable[["optuna.Trial"], "TrialConfig"]
PointToEvaluate = Mapping[str, str | int | float | None]
PointsToEvaluate = Sequence[PointToEvaluate]
Students = Sequence[StudentConfig]
U_NETS: Students = (UNetConfig(),)
STUDENT = "student.name"
"""The parameter that chooses among several students."""
LEARNING_RATE = "recipe.optimizer.learning_rate"
"""The parameter whose range is lower for what was trained before."""
KEEP = "student.keep"
"""The parameter that says which share of its channels a compressed network keeps."""
ORIGINAL = "original"
"""The user attribute of the trial that measures a network as it came, without parameters."""


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


def own_students(space: Space) -> Students:
    """The students that a space chooses among where no others are named."""
    parameter = signature(space).parameters.get("students")
    return U_NETS if parameter is None else tuple(parameter.default)


def with_co_study(named: NamedSpace, wanted: bool) -> NamedSpace:
    """The space with a phase in which the teacher learns, too, if that is wanted.

    Raises:
        ValueError: it is wanted, and the space has no such phase.
    """
    if not wanted:
        return named
    if "co_study" not in signature(named.space).parameters:
        raise ValueError(
            f"--co-study must be for a space that has that phase, but spaces/{named.name}.py has "
            "no parameter `co_study`"
        )
    takes_phase: Callable[..., TrialConfig] = named.space
    space: Space = partial(takes_phase, co_study=True)
    return replace(named, space=space)


def choose_students(
    named: NamedSpace, students: Students, shares: Sequence[float] = ()
) -> NamedSpace:
    """The space with other students; its good settings are tried with the first of them.

    With each of the others the first setting is tried. A network that is compressed has one of some
    `shares` of its channels, in ascending order: the settings are tried with the largest share, the
    first of them with each of the others.

    Raises:
        ValueError: the space always suggests students of its own.
    """
    if list(students) == list(own_students(named.space)) == list(U_NETS):
        return named
    if "students" not in signature(named.space).parameters:
        raise ValueError(
            f"--students must be for a space that takes them, but spaces/{named.name}.py has no "
            "parameter `students`"
        )
    is_choice = len(students) > 1
    points = [
        adapt_point(point, student, is_choice)
        for number, student in enumerate(students)
        for point in (named.points_to_evaluate if number == 0 else named.points_to_evaluate[:1])
    ]
    takes_students: Callable[..., TrialConfig] = named.space
    space: Space = partial(takes_students, students=tuple(students))
    if shares:  # the network comes first
        space = partial(suggest_pruned, space, students[0], shares)
        num_points = len(named.points_to_evaluate)
        of_network, others = points[:num_points], points[num_points:]
        *smaller, largest = shares
        points = [{**point, KEEP: largest} for point in of_network]
        points += [{**of_network[0], KEEP: share} for share in reversed(smaller)] + others
    if trained := next((student for student in students if student.is_trained), None):
        space = partial(suggest_compressed, space, trained)
    return replace(named, space=space, points_to_evaluate=points)


def suggest_pruned(
    space: Space, network: StudentConfig, shares: Sequence[float], trial: "optuna.Trial"
) -> "TrialConfig":
    """What a space suggests, where a network that is compressed keeps a share of its channels."""
    config = space(trial)
    if config.student != network:
        return config
    keep = trial.suggest_categorical(KEEP, list(shares))
    return config.replace(student=network.replace(keep=keep))


def suggest_compressed(
    space: Space, trained: StudentConfig, trial: "optuna.Trial"
) -> "TrialConfig":
    """What a space suggests, where a network that came trained is quantized as it is.

    A trial with the attribute `ORIGINAL` is that network itself.
    """
    from trainables.config import TrialConfig
    from trainables.recipes.configs import Original

    if ORIGINAL in trial.user_attrs:
        return TrialConfig(student=trained, recipe=Original(), num_epochs=1)
    config = space(trial)
    if config.student.is_trained and config.recipe.quantized:
        return config.with_recipe(start=Original())
    return config


def adapt_point(
    point: PointToEvaluate, student: StudentConfig, is_choice: bool
) -> dict[str, str | int | float | None]:
    """A setting for another student: fields that it does not know get the middle of their range.

    A network that came trained gets a tenth of the learning rate, since it forgets what it knows at
    3e-4 (docs/log.md); with a pretrained backbone the rate is drawn.
    """
    fields = type(student).model_fields
    kept = {
        path: value
        for path, value in point.items()
        if path != STUDENT
        and not (path == LEARNING_RATE and student.is_pretrained)
        and (not path.startswith("student.") or path.removeprefix("student.") in fields)
    }
    if student.is_trained and isinstance(rate := point.get(LEARNING_RATE), float):
        kept[LEARNING_RATE] = rate / 10
    own = {
        f"student.{field}": values[len(values) // 2] for field, values in student.choices().items()
    }
    return {**({STUDENT: student.name} if is_choice else {}), **own, **kept}
