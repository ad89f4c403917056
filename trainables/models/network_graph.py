"""A network's operations as data: what a configuration or a model file holds of a traced network.

Nothing here can name code: the words for layers and functions are looked up in the tables of
models/graph_network.py, and all other words are checked to be plain names.
"""

import base64
import binascii
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

from pydantic import Field, JsonValue, ValidationError, field_validator

from trainables.core.config_base import FrozenConfig

PATH = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$"
"""Of a module's name in its network."""
MAX_LENGTH = 1 << 24
"""Of the JSON of a graph, in bytes: compressed text must not fill the memory."""
NODE, TUPLE, SLICE = "node", "tuple", "slice"
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
        if unfit := [name for name in named if not re.match(PATH, name)]:
            raise ValueError(f"{unfit[0]!r} is no name of a module")
        return named

    def encode(self) -> str:
        """The graph as text, from which `decode_graph` reads it."""
        content = self.model_dump_json(exclude_defaults=True).encode()
        return base64.b85encode(zlib.compress(content, 9)).decode()


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
