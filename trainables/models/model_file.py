"""The model file: one safetensors file with the bit-packed weights of a network.

Quantized weights are packed bits in one uint8 tensor, with the steps and biases of their output
channels in 16 bits each; all else (steps of activations, weights that are not quantized) is one
float32 tensor. The spec in the header says which network they belong to. There are two tensors
rather than hundreds, because each needs about 90 bytes of header and small students have 30 KB.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pyarrow as pa
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray
from pydantic import Field, SerializeAsAny, ValidationError, model_validator
from torch import Tensor, nn

import trainables.quantization.quantizers.configs  # noqa: F401 - model files name them
from trainables.core.config_base import FrozenConfig
from trainables.models.configs import NetworkConfig
from trainables.quantization.bits import (
    find_zero_point,
    negative_share,
    pack_bits,
    packed_length,
    symmetric_zero_point,
    unpack_bits,
)
from trainables.quantization.buckets import MULTIPLIER_BITS, over_weight
from trainables.quantization.convert import (
    ConvertedAddition,
    ConvertedLayer,
    convert,
    round_outputs,
)
from trainables.quantization.integer_bias import round_biases
from trainables.quantization.layers import channel_axis
from trainables.quantization.prepare import prepare
from trainables.quantization.quantizers.base import Quantizer

Format = Literal[2, 3]
COMPACT: Format = 3
SHORT_BYTES = 2
"""Of a step or a bias of an output channel in a compact file."""
CONVERTED = (ConvertedLayer, ConvertedAddition)
HEADER_LIMIT = 1 << 20
FEWEST_BITS = 2
"""The smallest bit-width of a weight."""
MOST_BUFFERS = 16
"""Statistics and constants of a network for each byte of its file, which folding leaves out."""


class ModelSpec(FrozenConfig):
    """All that is needed to rebuild a network without its weights.

    Exported networks are `folded`; a network for further training keeps its normalisation and is
    not quantized. `with_additions` says that the additions of feature maps are quantized; files of
    networks without such additions, and of versions that added floats, do not mention it.

    Files of quantized students have format 3: steps and biases of output channels have 16 bits, and
    biases are read as integers can add them. Format 2 keeps both in 32 bits, as they are.
    """

    format: Format = 2
    model: SerializeAsAny[NetworkConfig]
    num_classes: int = Field(ge=2, le=255)
    quantizer: SerializeAsAny[Quantizer] | None = None
    folded: bool = True
    with_additions: bool = False
    written_if_set: ClassVar[tuple[str, ...]] = ("with_additions",)

    @property
    def is_compact(self) -> bool:
        """Whether steps and biases of output channels have 16 bits."""
        return self.format >= COMPACT

    @model_validator(mode="after")
    def check_folded(self) -> "ModelSpec":
        if self.quantizer and not self.folded:
            raise ValueError("a quantized network must be folded")
        return self

    def build(self) -> nn.Module:
        """The untrained network, prepared for quantization where the spec has a quantizer."""
        model = self.model.build(self.num_classes)
        return prepare(model, self.quantizer, self.with_additions) if self.quantizer else model

    def convert(self, model: nn.Module) -> nn.Module:
        """A network like that of `build`, converted to the form of the model file."""
        return convert(model) if self.folded else model


def serialize(model: nn.Module, spec: ModelSpec) -> bytes:
    """The content of the model file of a network; its length depends on the spec alone."""
    codes: list[NDArray[np.uint8]] = []
    floats: list[Tensor] = []
    for module in leaves(spec.convert(model)):
        if isinstance(module, ConvertedLayer) and module.codes is not None:
            assert module.bits
            codes.append(pack_bits(places_of(module).flatten().cpu().numpy(), module.bits))
            if module.table is not None:
                codes.append(module.table.cpu().numpy().astype(np.int8).view(np.uint8))
            if module.multipliers is not None:
                multipliers = module.multipliers.cpu().numpy().astype(np.uint8)
                codes.append(pack_bits(multipliers, MULTIPLIER_BITS))
            for values in short_tensors(module) if spec.is_compact else ():
                shares, largest = shorten(values.detach().cpu())
                codes.append(shares.numpy().view(np.uint8))
                floats.append(largest.view(1))
        if isinstance(module, CONVERTED) and module.grid is not None:
            floats.append(torch.tensor([negative_share(module.grid.bits, module.grid.zero_point)]))
        tensors = float_tensors(module, spec.is_compact)
        floats += [tensor.detach().flatten().float().cpu() for tensor in tensors]
    packed = np.concatenate(codes) if codes else np.zeros(0, np.uint8)
    return file_content(packed, torch.cat(floats).numpy(), spec)


def file_content(codes: NDArray[np.uint8], floats: NDArray[np.float32], spec: ModelSpec) -> bytes:
    """The model file of packed weights and of all other values."""
    tensors: dict[str, NDArray[Any]] = {"codes": codes, "floats": floats}
    return safetensors.numpy.save(tensors, {"paretoseg": spec.model_dump_json()})


def file_length(num_code_bytes: int, num_floats: int, spec: ModelSpec) -> int:
    """The length in bytes of `file_content` for so many values, without any of them."""
    content = file_content(np.zeros(0, np.uint8), np.zeros(0, np.float32), spec)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    end = 4 * num_floats
    header["floats"] |= {"shape": [num_floats], "data_offsets": [0, end]}
    header["codes"] |= {"shape": [num_code_bytes], "data_offsets": [end, end + num_code_bytes]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + end + num_code_bytes


def compressed(content: bytes) -> int:
    """The size in bytes of a model file after zstd at its highest regular level."""
    return int(pa.Codec("zstd", compression_level=19).compress(content).size)


def write_model(path: Path, model: nn.Module, spec: ModelSpec) -> None:
    """Writes the model file."""
    path.write_bytes(serialize(model, spec))


def read_spec(path: Path) -> ModelSpec:
    """The spec in a model file.

    Raises:
        ValueError: it is no model file of this project.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return parse_spec(file.read(min(length, HEADER_LIMIT)))
    except (OSError, ValueError) as error:
        raise not_a_model_file(str(path), error) from error


def read_model(path: Path) -> nn.Module:
    """The network of a model file, in evaluation mode, on the CPU.

    Raises:
        ValueError: it is no model file of this project, or a damaged one.
    """
    try:
        return deserialize(path.read_bytes())
    except (OSError, ValueError) as error:
        raise not_a_model_file(str(path), error) from error


def deserialize(content: bytes) -> nn.Module:
    """The network of a model file's content, converted, in evaluation mode.

    Raises:
        ValueError: the content is damaged.
    """
    spec = parse_spec(content[8 : 8 + int.from_bytes(content[:8], "little")])
    try:
        tensors = safetensors.numpy.load(content)
        codes, floats = Reader(tensors["codes"]), Reader(tensors["floats"])
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"it is damaged ({error})") from error
    check_length(spec, len(content))
    model = spec.convert(spec.build())
    with torch.no_grad():
        for module in leaves(model):
            fill(module, codes, floats, spec.is_compact)
    if spec.is_compact:
        round_biases(model)
    round_outputs(model)
    if codes.left or floats.left:
        raise ValueError("it holds more values than its network has")
    return model.eval()


def check_length(spec: ModelSpec, num_bytes: int) -> None:
    """Raises ValueError, before the network is built, if the file is too short for it."""
    with torch.device("meta"):
        model = spec.model.build(spec.num_classes)
    num_params = sum(parameter.numel() for parameter in model.parameters())
    num_others = sum(buffer.numel() for buffer in model.buffers())
    if num_bytes < max(num_params * FEWEST_BITS // 8, num_others // MOST_BUFFERS):
        raise ValueError("it holds fewer values than its network has")


def parse_spec(header: bytes) -> ModelSpec:
    try:
        text = json.loads(header)["__metadata__"]["paretoseg"]
        written, known = json.loads(text)["format"], get_args(Format)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("its header has no valid model specification") from error
    if written not in known:
        names = " and ".join(map(str, known))
        raise ValueError(f"its format is {written}, and this version reads {names}")
    try:
        return ModelSpec.model_validate_json(text)
    except ValidationError as error:
        raise ValueError("its header has no valid model specification") from error


def not_a_model_file(path: str, error: Exception) -> ValueError:
    return ValueError(
        "a model file must be an intact .safetensors file written by this project, but "
        f"{path} is not: {error}"
    )


class Reader:
    """Reads consecutive parts of an array."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values
        self.position = 0

    def take(self, count: int) -> NDArray[Any]:
        if count > self.left:
            raise ValueError("it holds fewer values than its network has")
        self.position += count
        return self.values[self.position - count : self.position]

    @property
    def left(self) -> int:
        return len(self.values) - self.position


def fill(module: nn.Module, codes: Reader, floats: Reader, is_compact: bool) -> None:
    if isinstance(module, ConvertedLayer) and module.codes is not None:
        fill_codes(module, codes)
        for values in short_tensors(module) if is_compact else ():
            shares = codes.take(SHORT_BYTES * len(values)).copy().view(np.float16)
            values.copy_(torch.from_numpy(shares).float() * float(floats.take(1)[0]))
    if isinstance(module, CONVERTED) and module.grid is not None:
        share = float(floats.take(1)[0])
        module.grid.zero_point = find_zero_point(module.grid.bits, share)
    for tensor in float_tensors(module, is_compact):
        tensor.copy_(torch.from_numpy(floats.take(tensor.numel()).copy()).view(tensor.shape))
    if isinstance(module, ConvertedLayer) and module.codes is not None:
        module.multiply()


def fill_codes(layer: ConvertedLayer, packed: Reader) -> None:
    assert layer.codes is not None
    assert layer.bits
    places = take_integers(packed, layer.codes.shape, layer.bits)
    if layer.table is None:
        layer.codes.copy_(places - symmetric_zero_point(layer.bits))
    else:
        stored = packed.take(len(layer.table)).view(np.int8)
        layer.table.copy_(torch.from_numpy(stored.copy()))
        layer.codes.copy_(layer.table[places])
    if layer.multipliers is not None:
        shape = layer.multipliers.shape
        layer.multipliers.copy_(take_integers(packed, shape, MULTIPLIER_BITS))
        layer.codes *= multipliers_of_codes(layer)


def take_integers(packed: Reader, shape: torch.Size, bits: int) -> Tensor:
    count = shape.numel()
    integers = unpack_bits(packed.take(packed_length(count, bits)), bits, count)
    return torch.from_numpy(integers).view(shape)


def places_of(layer: ConvertedLayer) -> Tensor:
    """The codes of a layer as integers in [0, 2**bits)."""
    assert layer.codes is not None
    assert layer.bits
    if layer.table is not None:
        return torch.searchsorted(layer.table, layer.codes.to(layer.table))
    codes = layer.codes.short()
    if layer.multipliers is not None:
        codes = codes // multipliers_of_codes(layer)
    return codes + symmetric_zero_point(layer.bits)


def multipliers_of_codes(layer: ConvertedLayer) -> Tensor:
    """The multiplier of each code's bucket, as the codes."""
    assert layer.codes is not None
    assert layer.multipliers is not None
    by_code = over_weight(layer.multipliers, layer.codes.shape, channel_axis(layer.layer))
    return by_code.to(layer.codes)


def leaves(module: nn.Module) -> Iterator[nn.Module]:
    """All modules in order of registration, each once for each parent; a converted one is whole."""
    yield module
    if not isinstance(module, CONVERTED):
        for child in module.children():
            yield from leaves(child)


def short_tensors(layer: ConvertedLayer) -> list[Tensor]:
    """What a compact file keeps of each output channel (outputs,) of a layer with codes."""
    return [tensor for tensor in (layer.step, layer.layer.bias) if tensor is not None]


def shorten(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values (N,) as shares of the largest, in float16, and that, in float32.

    They are rounded by at most a part in 2**11, and where they are less than a 2**14th of the
    largest by at most a 2**24th of it, but never to 0.
    """
    largest = values.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    shares = values / largest
    least = torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps
    shares = torch.where(shares == 0, shares, shares.abs().clamp(min=least).copysign(shares))
    return shares.half(), largest


def float_tensors(module: nn.Module, is_compact: bool = False) -> list[Tensor]:
    """The parameters and buffers of one leaf that are stored as float32."""
    if isinstance(module, ConvertedLayer):
        weight = module.layer.weight if module.step is None else module.step
        of_channels = [weight, module.layer.bias]
        if is_compact and module.codes is not None:
            of_channels = []
        step = module.grid.step if module.grid else None
        return [tensor for tensor in (*of_channels, step) if tensor is not None]
    if isinstance(module, ConvertedAddition):
        return [module.grid.step]
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return [tensor for tensor in own if tensor.is_floating_point()]


MODEL_FILE, METRICS_FILE, CONFIG_FILE = "model.safetensors", "metrics.json", "config.json"
NETWORK_FILE = "network.safetensors"
"""The file of a full-precision student's artifact with the network for further training."""
