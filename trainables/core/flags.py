"""The flags of a command, each declared on the field of the configuration that it sets."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from trainables.core.command_line import OWN_RULE, first_problem
from trainables.core.config_base import FrozenConfig
from trainables.core.units import Unit

Config = TypeVar("Config", bound=FrozenConfig)


@dataclass(frozen=True)
class Flag:
    """How a field is set on the command line; it is part of the `Annotated` type of the field.

    `group` is the heading of the help that lists the flag. `{default}` in `help` is replaced by the
    field's default. Without a `unit` the values of the field's Literal are the choices, and
    a bool is true where its flag is typed. A flag that is `several` takes one or more texts, each
    parsed by the unit. A resumed study must keep a field that is `immutable`.
    """

    group: str
    help: str
    unit: Unit | None = None
    immutable: bool = False
    several: bool = False


def flags_of(config: type[FrozenConfig]) -> dict[str, Flag]:
    """The flag of each field, by the field's name, in the order of the help."""
    return {
        field: next(item for item in info.metadata if isinstance(item, Flag))
        for field, info in config.model_fields.items()
    }


def field_of(config: type[FrozenConfig], field: str, **changes: Any) -> Any:
    """The flag, the limits and the default of a field, for a field of its name and its type.

    The type is not taken over, and with it a limit on a part of it, as in `PositiveInt | None`.
    `changes` are those of the flag.
    """
    info = deepcopy(config.model_fields[field])
    info.metadata = [
        replace(item, **changes) if isinstance(item, Flag) else item for item in info.metadata
    ]
    return info


def flag_name(config: type[FrozenConfig], field: str) -> str:
    """The flag of a field as it is typed: such as --max-size of max_size_bytes."""
    unit = flags_of(config)[field].unit
    return "--" + field.removesuffix(unit.suffix if unit else "").replace("_", "-")


def add_flag(add: Callable[..., object], config: type[FrozenConfig], field: str) -> None:
    """Adds the flag of a field by the `add_argument` of a parser or of one of its groups.

    A flag that is not typed leaves nothing in the namespace.
    """
    flag, info = flags_of(config)[field], config.model_fields[field]
    write: Callable[[Any], str] = flag.unit.write if flag.unit else str
    choices = [choice for part in parts_of(info.annotation) for choice in get_args(part)]
    how: dict[str, Any] = {"choices": choices}
    if flag.unit:
        how = {"metavar": flag.unit.metavar, "type": argument_type(flag.unit.parse)}
        how |= {"nargs": "+"} if flag.several else {}
    elif info.annotation is bool:
        how = {"action": "store_true"}
    text = flag.help
    if not info.is_required() and info.default is not None:
        text = text.format(default=write(info.default))
    add(flag_name(config, field), dest=field, default=argparse.SUPPRESS, help=text, **how)


def group_flags(
    parser: argparse.ArgumentParser, config: type[FrozenConfig]
) -> dict[str, Callable[..., object]]:
    """For each field the `add_argument` of the group of the help that lists its flag."""
    flags = flags_of(config)
    groups = {
        title: parser.add_argument_group(title)
        for title in dict.fromkeys(flag.group for flag in flags.values())
    }
    return {field: groups[flag.group].add_argument for field, flag in flags.items()}


def parts_of(annotation: Any) -> list[Any]:
    """The parts of an optional type, or the type itself."""
    parts = get_args(annotation)
    return [part for part in parts if part is not NoneType] if NoneType in parts else [annotation]


def argument_type(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`parse` for argparse, which shows the message of an ArgumentTypeError, not a ValueError's."""
    if isinstance(parse, type):  # argparse itself has a message for an invalid int
        return parse

    def parse_argument(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_argument


def typed_values(config: type[FrozenConfig], arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields that were set on the command line."""
    return {name: value for name, value in vars(arguments).items() if name in config.model_fields}


def default_values(config: type[FrozenConfig]) -> dict[str, Any]:
    """The fields that have a default."""
    fields = config.model_fields.items()
    return {name: info.default for name, info in fields if not info.is_required()}


def build_config(config: type[Config], values: Mapping[str, object]) -> Config:
    """The configuration of these values.

    Raises:
        ValueError: one breaks a rule of its field, whose flag the message names.
    """
    try:
        return config.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        if not problem["loc"]:  # a rule about several fields, which itself names their flags
            raise ValueError(problem["msg"].removeprefix(OWN_RULE)) from error
        flag = flag_name(config, str(problem["loc"][0]))
        raise ValueError(f"{flag}: {first_problem(error).partition(': ')[2]}") from error


def written_values(config: FrozenConfig, groups: Iterable[str]) -> dict[str, str]:
    """By name, the flags of some groups that are set, as they are typed on the command line."""
    found = {}
    for field, flag in flags_of(type(config)).items():
        value = getattr(config, field)
        if flag.group not in groups or value is None or value is False:
            continue
        write: Callable[[Any], str] = flag.unit.write if flag.unit else str
        text = " ".join(map(write, value)) if flag.several else write(value)
        found[flag_name(type(config), field)[2:].replace("-", "_")] = text
    return found
