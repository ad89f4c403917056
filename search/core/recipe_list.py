"""Recipes and students of a comparison as people write them: a name, and changes by dotted path."""

import json
import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from pydantic import SerializeAsAny, ValidationError

from trainables.config import TrialConfig, read_config
from trainables.core.command_line import first_problem
from trainables.core.config_base import FrozenConfig
from trainables.models.configs import StudentConfig
from trainables.models.student_list import listed_families, parse_students
from trainables.recipes.configs import RECOMMENDED, Recipe
from trainables.training.training_config import parse_network

Config = TypeVar("Config", bound=FrozenConfig)
NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)", re.DOTALL)
"""NAME=RECIPE; a path may contain `=` too, also before the first `/`, as ./a=b.json."""


class ComparedRecipe(FrozenConfig):
    """A recipe under the name by which a comparison shows it.

    `file` is the configuration that it was read from, with `recipe`; it brings its own student and
    all else that determines a training. It is None for a recipe that was named.
    """

    name: str
    recipe: SerializeAsAny[Recipe]
    file: TrialConfig | None = None


def parse_recipe(text: str) -> ComparedRecipe:
    """The recipe of "distill", "kd=distill losses.pixelwise.weight=3" or "studies/a/config.json".

    Raises:
        ValueError: there is neither such a recipe nor such a file, or a change is invalid.
    """
    named = NAMED.fullmatch(text)
    name, rest = named.groups() if named else (None, text)
    for whole, given in ((text, None), (rest, name)):
        if to_path(whole).is_file():  # it may contain what separates elsewhere
            return read_recipe(given or name_of(to_path(whole)), to_path(whole), [])
    base, *changes = rest.split() or [""]
    recipes = Recipe.members()
    if base in recipes:
        recommended = RECOMMENDED.get(base) or Recipe.model_validate({"name": base})
        recipe = apply_changes(Recipe, recommended, changes)
        return ComparedRecipe(name=name or " ".join([base, *changes]), recipe=recipe)
    path = to_path(base)
    if path.is_file():
        return read_recipe(name or " ".join([name_of(path), *changes]), path, changes)
    near = get_close_matches(base, recipes)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(
        f"each must be one of {', '.join(recipes)}, or a configuration file, but got {base!r}{hint}"
    )


def to_path(text: str) -> Path:
    return Path(os.path.expanduser(text))


def read_recipe(name: str, path: Path, changes: Sequence[str]) -> ComparedRecipe:
    """The recipe in a configuration file, with changes."""
    config = read_config(path)
    recipe = apply_changes(Recipe, config.recipe, changes)
    return ComparedRecipe(name=name, recipe=recipe, file=config.replace(recipe=recipe))


def name_of(path: Path) -> str:
    """The name of a file's recipe: of a config.json, as studies write it, that of its folder."""
    return path.absolute().parent.name if path.stem == "config" else path.stem


def parse_compared_students(text: str) -> tuple[StudentConfig, ...]:
    """The students of "unet,unet width=8,unet_resnet18:imagenet".

    Raises:
        ValueError: there is no such student, or a change is invalid.
    """
    students = []
    for item in text.split(","):
        base, *changes = item.split() or [""]
        (student,) = parse_students(base)
        students.append(apply_changes(StudentConfig, student, changes))
    return tuple(students)


def parse_teacher(text: str) -> str | StudentConfig:
    """A student to be trained as the teacher, as "unet width=64"; else a network or its file.

    Raises:
        ValueError: a change of the student is invalid, or it has no such weights.
    """
    if re.split("[: ]", text, maxsplit=1)[0] not in listed_families():
        return parse_network(text)
    (student,) = parse_compared_students(text)
    return student


def write_teacher(teacher: str | StudentConfig) -> str:
    """A teacher as messages name it."""
    return teacher if isinstance(teacher, str) else teacher.describe()


def apply_changes(union: type[Config], config: Config, changes: Sequence[str]) -> Config:
    """The configuration with changes such as "losses.pixelwise.weight=1".

    A value is JSON, or else text: `losses.pixelwise=null` takes a term out. Where there is nothing
    at a path, as at `losses.pairwise.weight`, a part with all other defaults is added. A start that
    is named has the settings of the recipe of this name.

    Raises:
        ValueError: a change is no PATH=VALUE, or breaks a rule of `union`.
    """
    tree = config.model_dump(mode="json")
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"a change must be PATH=VALUE, but got {change!r}")
        node = tree
        *parents, last = path.split(".")
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise ValueError(f"{parent} of {path} must have parts, but is {node!r}")
        node[last] = read_value(text)
        if path == "start.name":
            named = RECOMMENDED.get(text)
            tree["start"] = named.model_dump(mode="json") if named else {"name": text}
    try:
        return union.model_validate(tree)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error


def read_value(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
