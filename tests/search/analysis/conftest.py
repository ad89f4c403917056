"""The records that tables and plots show."""

import pytest
from front_factories import FAILED, quantized, record

from search.core.record import Record
from trainables.losses.configs import Pairwise, Pixelwise, by_name
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import Distill, Qat, QatDistill, Supervised


@pytest.fixture
def records() -> list[Record]:
    """All states; 0004, 0003 and 0006 are the front, smallest first."""
    return [
        FAILED,
        record("0001", 0.61, None, Qat(), state="PRUNED"),
        record("0002", 0.50, 90_000, quantized(8)),
        record("0003", 0.60, 61_900, quantized(4, 6)),
        record("0004", 0.41, 20_400, QatDistill(quantizer=Lsq(weight_bits=2)), width=4),
        record("0005", 0.66, 2_500_000, Supervised(), width=16),
        record("0006", 0.67, 1_950_000, Distill(losses=by_name(Pixelwise(), Pairwise()))),
        record("0007", 0.99, None, Qat(), state="RUNNING"),
    ]
