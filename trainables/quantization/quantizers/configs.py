"""The configurations of quantizers that a recipe may use."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from trainables.quantization.bits import SAFE_BITS, LayerBits
from trainables.quantization.buckets import BUCKET, multiplier_bytes
from trainables.quantization.mixed_precision import Sensitivity, allocate, offset_bits
from trainables.quantization.quantizers.base import Quantizer, QuantizerConfig

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer


QuantizerName = Literal["lsq", "pact", "dorefa", "codebook", "bucketed"]
"""The quantizers to choose from."""


class Lsq(Quantizer):
    """Learned step size quantization (Esser et al. 2019, arXiv 1902.08153)."""

    name: Literal["lsq"] = "lsq"

    def build_weight_quantizer(
        self, bits: int, weight: "Tensor", step_shape: tuple[int, ...]
    ) -> "FakeQuantizer":
        from trainables.quantization.quantizers.lsq import StepQuantizer

        quantizer = StepQuantizer(bits, step_shape)
        quantizer.init_from_mean(weight)
        return quantizer

    def build_input_quantizer(self, bits: int) -> "FakeQuantizer":
        from trainables.quantization.quantizers.lsq import StepQuantizer

        return StepQuantizer(bits, (1,))


class Pact(Quantizer):
    """Learned clipping of activations, PACT (Choi et al. 2018, arXiv 1805.06085).

    Steps of weights are those of the least squared error at calibration, and are not learned: the
    authors' later choice (SAWB, Choi et al. 2018, arXiv 1807.06964) instead of DoReFa's grid.
    """

    name: Literal["pact"] = "pact"

    def build_weight_quantizer(
        self, bits: int, weight: "Tensor", step_shape: tuple[int, ...]
    ) -> "FakeQuantizer":
        from trainables.quantization.quantizers.dorefa import FixedQuantizer

        quantizer = FixedQuantizer(bits, step_shape)
        quantizer.init_from_mean(weight)
        return quantizer

    def build_input_quantizer(self, bits: int) -> "FakeQuantizer":
        from trainables.quantization.quantizers.pact import ClippingQuantizer

        return ClippingQuantizer(bits, (1,))


class Dorefa(Quantizer):
    """Weights behind a tanh, and no learned grids: DoReFa (Zhou et al. 2016, arXiv 1606.06160)."""

    name: Literal["dorefa"] = "dorefa"
    keeps_points: ClassVar[bool] = False

    def build_weight_quantizer(
        self, bits: int, weight: "Tensor", step_shape: tuple[int, ...]
    ) -> "FakeQuantizer":
        from trainables.quantization.quantizers.dorefa import TanhQuantizer

        quantizer = TanhQuantizer(bits, step_shape)
        quantizer.calibrate(weight)
        return quantizer

    def build_input_quantizer(self, bits: int) -> "FakeQuantizer":
        from trainables.quantization.quantizers.dorefa import FixedQuantizer

        return FixedQuantizer(bits, (1,))


class Codebook(Lsq):
    """Learned points for weights below 8 bits (Polino et al. 2018, arXiv 1802.05668); else LSQ."""

    name: Literal["codebook"] = "codebook"  # type: ignore[assignment]

    def num_extra_bytes(self, bits: int, num_weights: int, num_channels: int) -> int:
        return 2**bits if bits < SAFE_BITS else 0  # the points

    def build_weight_quantizer(
        self, bits: int, weight: "Tensor", step_shape: tuple[int, ...]
    ) -> "FakeQuantizer":
        from trainables.quantization.quantizers.codebook import CodebookQuantizer

        if bits >= SAFE_BITS:
            return super().build_weight_quantizer(bits, weight, step_shape)
        return CodebookQuantizer(bits, step_shape)


class Bucketed(Lsq):
    """Own grids for buckets of 16 weights of up to 4 bits (Polino et al. 2018, arXiv 1802.05668).

    Output channels of no more weights, as those of depthwise layers, have one grid, as by LSQ.
    """

    name: Literal["bucketed"] = "bucketed"  # type: ignore[assignment]
    most_bits: ClassVar[int] = 4

    def has_buckets(self, bits: int, num_weights: int) -> bool:
        """Whether an output channel of so many weights has more than one grid."""
        return bits <= self.most_bits and num_weights > BUCKET

    def num_extra_bytes(self, bits: int, num_weights: int, num_channels: int) -> int:
        has_buckets = self.has_buckets(bits, num_weights // num_channels)
        return multiplier_bytes(num_weights, num_channels) if has_buckets else 0

    def build_weight_quantizer(
        self, bits: int, weight: "Tensor", step_shape: tuple[int, ...]
    ) -> "FakeQuantizer":
        from trainables.quantization.quantizers.bucketed import BucketQuantizer

        if not self.has_buckets(bits, weight.numel() // math.prod(step_shape)):
            return super().build_weight_quantizer(bits, weight, step_shape)
        quantizer = BucketQuantizer(bits, weight, step_shape)
        quantizer.calibrate(weight)
        return quantizer


class MixedPrecision(QuantizerConfig):
    """Mean bit-widths, allocated to layers by sensitivity, then offset for encoder and decoder.

    A study resolves it to its quantizer with bits for each layer, after it has measured the
    sensitivity of the full-precision student to that quantizer.
    """

    name: Literal["allocation"] = "allocation"
    weight_bits: float = Field(4, ge=2, le=8, description="mean over all weights")
    activation_bits: float = Field(
        4, ge=2, le=8, description="mean over all layers' inputs that are not added"
    )
    encoder: int = Field(0, ge=-2, le=2, description="more bits for each of the encoder's weights")
    decoder: int = Field(0, ge=-2, le=2, description="the same for the decoder and its upsampling")

    def resolve(self, sensitivity: Sensitivity, group_of: Callable[[str], str | None]) -> Quantizer:
        weights = allocate(sensitivity.weights, sensitivity.num_weights, self.weight_bits)
        shared = allocate(sensitivity.inputs, sensitivity.num_inputs, self.activation_bits)
        inputs = {
            reader: bits for first, bits in shared.items() for reader in sensitivity.readers[first]
        }
        offsets = {"encoder": self.encoder, "decoder": self.decoder}
        layers = {
            layer: LayerBits(
                weight_bits=offset_bits(bits, offsets.get(group_of(layer) or "", 0)),
                activation_bits=inputs.get(layer, SAFE_BITS),
            )
            for layer, bits in weights.items()
        }
        return DEFAULT_QUANTIZER.replace(
            weight_bits=int(self.weight_bits),
            activation_bits=int(self.activation_bits),
            layers=layers,
        )


DEFAULT_QUANTIZER = Lsq()
