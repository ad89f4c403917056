"""Post-training quantization: a converged student is calibrated, not trained (Nagel et al. 2021,
arXiv 2106.08295, section 3)."""

from collections.abc import Iterator

from trainables.recipes.base import Epoch, Task
from trainables.recipes.configs import Ptq
from trainables.recipes.quantized_start import quantized_student
from trainables.recipes.untrained import untrained_epoch


def train_ptq(recipe: Ptq, task: Task) -> Iterator[Epoch]:
    """Yields the quantized student once."""
    yield untrained_epoch(quantized_student(recipe, task), task)
