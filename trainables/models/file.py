"""The model file: one safetensors file that holds a network as small as it really is.

Quantized weights are packed bits in one uint8 tensor, all else is one float32 tensor; the card in
the header says which network they fill. Two tensors rather than hundreds, because each costs
about 90 bytes of header and small students weigh 30 KB.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor, nn

from trainables.frozen import Frozen
from trainables.models import Model
from trainables.quant.layers import QuantizedLayer
from trainables.quant.packing import pack_bits, packed_length, unpack_bits
from trainables.quant.prepare import Lsq, prepare

HEADER_LIMIT = 1 << 20


class ModelCard(Frozen):
    """All that is needed to rebuild a network before its weights are filled in."""

    format: Literal[1] = 1
    model: Model
    num_classes: int = Field(ge=2, le=255)
    quantizer: Lsq | None = None

    def build(self) -> nn.Module:
        """The untrained network, prepared for quantization where the card says so."""
        model = self.model.build(self.num_classes)
        return prepare(model, self.quantizer) if self.quantizer else model


def serialize(model: nn.Module, card: ModelCard) -> bytes:
    """The model file's content; its length depends on the card alone."""
    codes: list[NDArray[np.uint8]] = []
    floats: list[Tensor] = []
    for module in leaves(model):
        if isinstance(module, QuantizedLayer) and module.weight_quantizer:
            quantizer = module.weight_quantizer
            unsigned = quantizer.codes(module.layer.weight) - quantizer.low
            codes.append(pack_bits(unsigned.flatten().cpu().numpy(), quantizer.bits))
        if isinstance(module, QuantizedLayer) and module.input_quantizer:
            floats.append(torch.tensor([float(module.input_quantizer.signed)]))
        floats += [tensor.detach().flatten().float().cpu() for tensor in float_tensors(module)]
    tensors = {
        "codes": np.concatenate(codes) if codes else np.zeros(0, np.uint8),
        "floats": torch.cat(floats).numpy(),
    }
    return safetensors.numpy.save(tensors, {"paretoseg": card.model_dump_json()})


def write_model(path: Path, model: nn.Module, card: ModelCard) -> None:
    """Writes the model file."""
    path.write_bytes(serialize(model, card))


def read_card(path: Path) -> ModelCard:
    """The card of a model file.

    Raises:
        ValueError: it is no model file of this project.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return parse_card(file.read(min(length, HEADER_LIMIT)))
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
    """The inverse of `serialize`: bit for bit the same predictions, in evaluation mode.

    Raises:
        ValueError: the content is damaged.
    """
    card = parse_card(content[8 : 8 + int.from_bytes(content[:8], "little")])
    try:
        tensors = safetensors.numpy.load(content)
        codes, floats = Reader(tensors["codes"]), Reader(tensors["floats"])
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"it is damaged ({error})") from error
    model = card.build()
    with torch.no_grad():
        for module in leaves(model):
            fill(module, codes, floats)
    if codes.left or floats.left:
        raise ValueError("it holds more values than its network has")
    return model.eval()


def parse_card(header: bytes) -> ModelCard:
    try:
        return ModelCard.model_validate_json(json.loads(header)["__metadata__"]["paretoseg"])
    except (KeyError, TypeError, UnicodeDecodeError, ValidationError) as error:
        raise ValueError("its header has no valid model card") from error


def not_a_model_file(path: str, error: Exception) -> ValueError:
    return ValueError(
        "a model file must be an intact .safetensors file written by this project, but "
        f"{path} is not: {error}"
    )


class Reader:
    """Hands out consecutive pieces of an array."""

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


def fill(module: nn.Module, codes: Reader, floats: Reader) -> None:
    weight_codes: Tensor | None = None
    if isinstance(module, QuantizedLayer) and module.weight_quantizer:
        quantizer, shape = module.weight_quantizer, module.layer.weight.shape
        packed = codes.take(packed_length(shape.numel(), quantizer.bits))
        unsigned = unpack_bits(packed, quantizer.bits, shape.numel())
        weight_codes = torch.from_numpy(unsigned + quantizer.low).view(shape)
    if isinstance(module, QuantizedLayer) and module.input_quantizer:
        module.input_quantizer.signed = bool(floats.take(1)[0])
    for tensor in float_tensors(module):
        tensor.copy_(torch.from_numpy(floats.take(tensor.numel()).copy()).view(tensor.shape))
    if weight_codes is not None:
        assert isinstance(module, QuantizedLayer)
        assert module.weight_quantizer
        module.layer.weight.copy_(weight_codes * module.weight_quantizer.step)


def leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Modules in order of registration, a quantized layer as one of them."""
    yield module
    if not isinstance(module, QuantizedLayer):
        for child in module.children():
            yield from leaves(child)


def float_tensors(module: nn.Module) -> list[Tensor]:
    """The parameters and buffers of one leaf that are stored as float32."""
    if not isinstance(module, QuantizedLayer):
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        return [tensor for tensor in own if tensor.is_floating_point()]
    tensors = [] if module.weight_quantizer else [module.layer.weight]
    if module.layer.bias is not None:
        tensors.append(module.layer.bias)
    quantizers = (module.weight_quantizer, module.input_quantizer)
    return tensors + [quantizer.log_step for quantizer in quantizers if quantizer]
