"""Results that autograd computes again where it needs them, instead of keeping them in memory.

(Chen et al. 2016, arXiv 1604.06174, section 3, on results that cost little.)
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


@dataclass(frozen=True)
class Again:
    """Stands for `function(argument)`."""

    function: Callable[[Tensor], Tensor]
    argument: Tensor

    def compute(self) -> Tensor:
        with torch.no_grad():
            return self.function(self.argument)


def recomputed(
    result: Tensor, function: Callable[[Tensor], Tensor], argument: Tensor
) -> AbstractContextManager[Any]:
    """Inside, operations that would keep `result` keep the argument from which a function gave it.

    It must give the same again, and the argument must be kept by others, or nothing is saved.
    """
    again = Again(function, argument.detach())
    place, shape, stride = result.data_ptr(), result.shape, result.stride()

    def pack(kept: Tensor) -> Tensor | Again:
        is_result = (kept.data_ptr(), kept.shape, kept.stride()) == (place, shape, stride)
        return again if is_result else kept

    def unpack(kept: Tensor | Again) -> Tensor:
        return kept.compute() if isinstance(kept, Again) else kept

    return saved_tensors_hooks(pack, unpack)
