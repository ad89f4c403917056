"""The interface of quantizer configurations.

No file of the training framework is imported before a quantizer is built.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from trainables.core.config_base import TaggedConfig
from trainables.quantization.bits import Bits, LayerBits
from trainables.quantization.mixed_precision import Sensitivity

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer


class QuantizerConfig(TaggedConfig):
    """A quantizer, or a rule that gives one for a student's sensitivity."""

    def resolve(
        self, sensitivity: Sensitivity, group_of: Callable[[str], str | None]
    ) -> "Quantizer":
        """The quantizer for a student of this sensitivity; `group_of` gives a layer's group."""
        raise NotImplementedError

    @property
    def quantizer(self) -> "Quantizer | None":
        """The quantizer itself; None where its bits depend on the student's sensitivity."""
        return None


class Quantizer(QuantizerConfig):
    """Uniform grids for weights and activations, with a bit-width for each layer.

    The first and the last layers keep at least 8 bits (Esser et al. 2019, section 3) unless
    `layers`, which maps a layer's name to its own bit-widths, says otherwise.
    """

    keeps_points: ClassVar[bool] = True
    """Whether weights on the grid are not changed, as AdaRound and dampening need it."""
    weight_bits: Bits = 4
    activation_bits: Bits = 4
    layers: dict[str, LayerBits] = Field(default_factory=dict)

    def resolve(
        self, sensitivity: Sensitivity, group_of: Callable[[str], str | None]
    ) -> "Quantizer":
        return self

    @property
    def quantizer(self) -> "Quantizer":
        return self

    def of_kind(self, name: str) -> "Quantizer":
        """The quantizer of another name with the same bits."""
        bits = {field: getattr(self, field) for field in Quantizer.model_fields if field != "name"}
        return Quantizer.members()[name](**bits)

    def num_extra_bytes(self, bits: int, num_weights: int, num_channels: int) -> int:
        """The bytes of a layer's file beside the bits of its weights and the steps."""
        return 0

    def build_weight_quantizer(
        self, bits: int, weight: "Tensor", step_shape: tuple[int, ...]
    ) -> "FakeQuantizer":
        """Signed, one grid for each output channel: `step_shape` broadcasts to the weight."""
        raise NotImplementedError

    def build_input_quantizer(self, bits: int) -> "FakeQuantizer":
        """One grid for a whole tensor, whose zero point calibration chooses."""
        raise NotImplementedError
