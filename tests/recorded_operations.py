"""The stand-in for CUDA graphs in tests on a CPU: the operations of a call, without its Python."""

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainables.recipes.captured import Captured, Recording, copied

READ_BACK = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal"}
"""Operations that wait for a GPU, which a graph cannot hold."""
SENT = "lift_fresh"
"""Makes a tensor of Python's numbers, which a graph cannot send to a GPU."""
Operation = tuple[Callable[..., Any], Any, Any, Any]


class Operations(TorchDispatchMode):
    """Keeps the operations of a block with their tensors; `replay` computes all of them again.

    As in a CUDA graph each result lies where it lay, and what Python decided stays decided.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.written: list[tuple[Tensor, Tensor]] = []
        """Tensors that were written, and what they held before."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        assert name not in READ_BACK, f"{name} waits for the device"
        assert name != SENT, "a tensor of Python's numbers is sent to the device"
        assert not (name.startswith("index") and has_mask(args)), f"{name} by a mask waits"
        self.written += [(each, each.clone()) for each in written_by(func, args, kwargs)]
        results = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, results))
        return results

    def undo(self) -> None:
        """Restores what was written: a CUDA graph that is recorded is not run."""
        for tensor, before in reversed(self.written):
            tensor.copy_(before)
        self.written.clear()

    def replay(self) -> None:
        for func, args, kwargs, results in self.operations:
            again = func(*args, **kwargs)
            for kept, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(kept, Tensor) and kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


def has_mask(args: Any) -> bool:
    """Whether elements are chosen by a mask, so that their number depends on values."""
    chosen = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(isinstance(each, Tensor) and each.dtype == torch.bool for each in chosen)


def written_by(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The arguments that an operation writes."""
    if func.overloadpacket.__name__ == "native_batch_norm":  # whose schema does not say it
        return [each for each in args[3:5] if each is not None]
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
    names = [a.name for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
    found = (given | kwargs).get
    return [each for name in names for each in tree_leaves(found(name)) if each is not None]


class Replayed(Captured[Any, Any]):
    """`Captured` whose graphs are lists of operations."""

    num_replays: ClassVar = Counter[str]()
    """By the name of the function."""

    def _is_on_gpu(self, inputs: Any) -> bool:
        return True

    def _beside(self, inputs: Any) -> Any:
        return self.function(inputs)

    def _record(self, inputs: Any) -> Recording[Any, Any]:
        own, operations = copied(inputs), Operations()
        with operations:
            outputs = self.function(own)
        with torch.no_grad():
            operations.undo()

        def replay() -> None:
            self.num_replays[self.function.__qualname__] += 1
            with torch.no_grad():
                operations.replay()

        return Recording(own, outputs, replay)

    def _refuse(self, error: Exception) -> None:
        raise error
