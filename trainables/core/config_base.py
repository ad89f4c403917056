"""The base of every configuration."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import ClassVar, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from trainables.core.command_line import first_problem

Leaf = str | int | float | bool | None
Tagged = TypeVar("Tagged", bound="TaggedConfig")


class FrozenConfig(BaseModel):
    """An immutable, strict pydantic model: unknown fields and non-finite numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    written_if_set: ClassVar[tuple[str, ...]] = ()
    """Fields that are not written while they have their defaults, so that configurations from
    before these fields existed keep their digests."""

    @model_serializer(mode="wrap")
    def write(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        written: dict[str, object] = handler(self)
        for field in self.written_if_set:
            if getattr(self, field) == type(self).model_fields[field].default:
                del written[field]
        return written

    @classmethod
    def read(cls, path: Path) -> Self:
        """The configuration in a JSON file that this project wrote.

        Raises:
            ValueError: the file is damaged.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(f"{path} is damaged: {first_problem(error)}") from error

    def digest(self) -> str:
        """Sixteen hexadecimal digits that name this configuration's content."""
        return digest(self.model_dump(mode="json"))

    def replace(self, **changes: object) -> Self:
        """A validated copy with some fields changed."""
        return self.model_validate({**dict(self), **changes})

    def flatten(self) -> dict[str, Leaf]:
        """The configuration as a flat mapping from dotted path to value."""
        return dict(flatten_tree(self.model_dump(mode="json")))


class TaggedConfig(FrozenConfig):
    """The base of a tagged union, whose members are distinguished by `name`.

    A subclass becomes a member by giving `name` a Literal type. Where a field has the type of a
    base, JSON is read as the member that it names. Annotate such a field with `SerializeAsAny`.
    """

    default_name: ClassVar[str | None] = None
    """The member that JSON without a name stands for."""
    name: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        find_members.cache_clear()

    @classmethod
    def members(cls) -> Mapping[str, type[Self]]:
        """The members of this union by their names."""
        return find_members(cls)

    @model_validator(mode="wrap")
    @classmethod
    def select_member(cls, value: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if get_args(cls.model_fields["name"].annotation) or isinstance(value, cls):
            return handler(value)
        name = value.get("name", cls.default_name) if isinstance(value, Mapping) else None
        if (member := cls.members().get(str(name))) is None:
            raise ValueError(f"the name must be one of {', '.join(sorted(cls.members()))}")
        return member.model_validate(value)


@cache
def find_members(base: type[Tagged]) -> Mapping[str, type[Tagged]]:
    """`TaggedConfig.members`, which each validation asks for."""
    found = dict.fromkeys(get_args(base.model_fields["name"].annotation), base)
    for subclass in base.__subclasses__():
        found |= subclass.members()
    return found


def digest(content: object) -> str:
    """Sixteen hexadecimal digits that name JSON-serialisable `content`."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten_tree(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, Leaf]]:
    """Yields (dotted path, leaf) pairs of a nested JSON object; a null object is one None leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten_tree(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | None):
            yield f"{prefix}{key}", value
        else:
            yield f"{prefix}{key}", json.dumps(value)
