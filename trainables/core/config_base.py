"""The base of every configuration."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict

Leaf = str | int | float | bool | None


class FrozenConfig(BaseModel):
    """An immutable, strict pydantic model: unknown fields and non-finite numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def digest(self) -> str:
        """Sixteen hexadecimal digits that name this configuration's content."""
        return digest(self.model_dump(mode="json"))

    def replace(self, **changes: object) -> Self:
        """A validated copy with some fields changed."""
        return self.model_validate({**dict(self), **changes})

    def flatten(self) -> dict[str, Leaf]:
        """The configuration as a flat mapping from dotted path to value."""
        return dict(flatten_tree(self.model_dump(mode="json")))


def digest(content: object) -> str:
    """Sixteen hexadecimal digits that name JSON-serialisable `content`."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten_tree(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, Leaf]]:
    """Yields (dotted path, leaf) pairs of a nested JSON object; an absent part is one None leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten_tree(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | None):
            yield f"{prefix}{key}", value
        else:
            yield f"{prefix}{key}", json.dumps(value)
