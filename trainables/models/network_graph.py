"""A network's operations as data: what a configuration or a model file holds of a traced network.

Nothing here can name code: the words for layers, functions and methods are looked up in the tables
of models/graph_network.py, and all other words are checked to be plain names.
"""

import base64
import binascii
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Literal

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from trainables.core.config_base import FrozenConfig

PATH = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$"
"""Of a module's name in its network."""
MAX_LENGTH = 1 << 20
"""Of the JSON of a graph, in bytes: compressed text must not fill the memory."""
NODE, TUPLE, SLICE, ELLIPSIS = "node", "tuple", "slice", "ellipsis"
"""Keys of the objects that stand for arguments that JSON does not have."""


class LayerSpec(FrozenConfig):
    """A layer of torch.nn: the name of its class, and the arguments that differ from defaults."""

    type: str
    options: Mapping[str, JsonValue] = {}


class TensorSpec(FrozenConfig):
    """A tensor that a network holds outside of the layers of torch.nn."""

    shape: Sequence[int]
    is_parameter: bool


class Operation(FrozenConfig):
    """One operation; operation number 0 gives the images, the first of a graph is number 1.

    Attributes:
        kind: a layer or a tensor of the network by its name, a function of the table, or a method
            of the first argument.
        args: JSON values, with {"node": NUMBER} for what an earlier operation gives.
    """

    kind: Literal["layer", "tensor", "function", "method"]
    target: str = Field(pattern=PATH)
    args: Sequence[JsonValue] = ()
    kwargs: Mapping[str, JsonValue] = {}


class NetworkGraph(FrozenConfig):
    """The operations of a network, and the layers that it calls.

    Attributes:
        layers: by their names.
        tensors: by their names.
        operations: in the order of the forward pass.
        logits: the number of the operation that gives logits (B,K,h,w).
        features: the number of the operation that gives the deepest features (B,C,h',w').
        classifiers: names of the layers whose output channels are the classes.
    """

    layers: Mapping[str, LayerSpec]
    tensors: Mapping[str, TensorSpec] = {}
    operations: Sequence[Operation]
    logits: int
    features: int
    classifiers: Sequence[str]

    @field_validator("layers", "tensors")
    @classmethod
    def check_names(cls, named: Mapping[str, object]) -> Mapping[str, object]:
        if unfit := [name for name in named if not re.fullmatch(PATH, name)]:
            raise ValueError(f"{unfit[0]!r} is no name of a module")
        return named

    @model_validator(mode="after")
    def check_operations(self) -> "NetworkGraph":
        known = {"layer": self.layers, "tensor": self.tensors}
        for number, operation in enumerate(self.operations, start=1):
            if operation.target not in known.get(operation.kind, (operation.target,)):
                raise ValueError(f"there is no {operation.kind} {operation.target!r}")
            reads = list(find_reads([*operation.args, *operation.kwargs.values()]))
            if not all(0 <= read < number for read in reads):
                raise ValueError(f"operation {number} must read earlier ones, but reads {reads}")
            if not reads and operation.kind != "tensor":
                raise ValueError(f"operation {number} must read another one")
        ends = (self.logits, self.features)
        if not all(0 <= end <= len(self.operations) for end in ends):
            raise ValueError(f"logits and features must be operations, but are {ends}")
        if unknown := set(self.classifiers) - self.layers.keys():
            raise ValueError(f"there are no classifiers {unknown}")
        return self

    def encode(self) -> str:
        """The graph as text, from which `decode_graph` reads it."""
        content = self.model_dump_json(exclude_defaults=True).encode()
        return base64.b85encode(zlib.compress(content, 9)).decode()


def find_reads(argument: JsonValue) -> Iterator[int]:
    """The numbers of the operations whose values an argument holds.

    Raises:
        ValueError: it has objects that stand for nothing.
    """
    if isinstance(argument, list):
        for part in argument:
            yield from find_reads(part)
    elif isinstance(argument, dict):
        kind, content = next(iter(argument.items()), (None, None))
        is_object = len(argument) == 1 and kind in (NODE, TUPLE, SLICE, ELLIPSIS)
        if not is_object or not isinstance(content, int if kind == NODE else list):
            raise ValueError(f"an argument must not be {argument}")
        if kind == NODE:
            assert isinstance(content, int)
            yield content
        else:
            yield from find_reads(content)


@lru_cache(maxsize=16)
def decode_graph(text: str) -> NetworkGraph:
    """The graph that a text of `NetworkGraph.encode` holds.

    Raises:
        ValueError: it holds none.
    """
    try:
        inflater = zlib.decompressobj()
        content = inflater.decompress(base64.b85decode(text), MAX_LENGTH)
        return NetworkGraph.model_validate_json(content)
    except (binascii.Error, zlib.error, ValidationError, ValueError) as error:
        raise ValueError(
            "the graph of a traced network must be whole, but it is damaged"
        ) from error
