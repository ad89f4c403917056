"""Quantization-aware training that lowers the bits step by step.

Each part of the training has one bit fewer than the part before, and begins with grids that are
calibrated anew, so that the last bits are taken from a network that is nearly adapted (progressive
quantization, Zhuang et al. 2018, arXiv 1711.00205).
"""

from torch import Tensor

from trainables.quantization.bits import SAFE_BITS
from trainables.quantization.prepare import calibrate
from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer
from trainables.recipes.optimization import OptimizerLoop


class BitDescent:
    """Raises the bits of a student at the start of its training, and lowers them to its own.

    Grids of 8 bits and more keep theirs. It must be restored from a checkpoint before the student,
    since a grid's state depends on its bits.
    """

    def __init__(self, loop: OptimizerLoop, num_parts: int, num_steps: int, images: Tensor) -> None:
        """`images` (B,3,H,W) calibrate the grids whenever their bits change."""
        self.loop, self.images = loop, images
        self.num_parts, self.num_steps = num_parts, num_steps
        self.own = {
            name: module.bits
            for name, module in loop.model.named_modules()
            if isinstance(module, FakeQuantizer) and module.bits < SAFE_BITS
        }
        self.more = 0
        self._descend_to(num_parts - 1)

    @property
    def is_due(self) -> bool:
        """Whether the next optimizer step is the first of a part."""
        return self._next < self.more

    def descend(self) -> None:
        """Lowers the bits to those of the next optimizer step."""
        self._descend_to(self._next)

    @property
    def _next(self) -> int:
        part = self.loop.num_steps_taken * self.num_parts // self.num_steps
        return max(0, self.num_parts - 1 - part)

    def _descend_to(self, more: int) -> None:
        self._change(more)
        calibrate(self.loop.model, self.images)
        self.loop.restart_average()

    def _change(self, more: int) -> None:
        self.more = more
        for network in {self.loop.model, self.loop.shipped}:
            for name, bits in self.own.items():
                quantizer = network.get_submodule(name)
                assert isinstance(quantizer, FakeQuantizer)
                quantizer.change_bits(min(SAFE_BITS, bits + more))

    def state_dict(self) -> dict[str, int]:
        """The state for a checkpoint."""
        return {"more": self.more}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._change(state["more"])
