"""Functions of tensors that are replayed as CUDA graphs, without the cost of launching kernels.

A small student's step takes as long as its launches, whatever its width. A graph is recorded once
and launched as a whole (https://docs.pytorch.org/docs/stable/notes/cuda.html, "CUDA Graphs").
"""

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
NUM_EAGER = 3
"""Calls before a graph is recorded, in which kernels are chosen and compiled."""
SAID = set[str]()
"""Kinds of errors for which it was said that no graph can be recorded."""
Inputs = TypeVar("Inputs")
Outputs = TypeVar("Outputs")
Tree = Any
"""Tensors in tuples and mappings."""


@dataclass(frozen=True)
class Recording(Generic[Inputs, Outputs]):
    """A graph that reads `inputs` and writes `outputs`."""

    inputs: Inputs
    outputs: Outputs
    replay: Callable[[], None]


class Captured(Generic[Inputs, Outputs]):
    """A function of tensors; on a GPU it is replayed as a CUDA graph after `NUM_EAGER` calls.

    There is a graph for each shape of the inputs, and the outputs of one are overwritten by its
    next call. The function must not read values back from the device, must find all that it reads
    besides its inputs in the same place in each call, and must not return its inputs. Where no
    graph can be recorded it is called, after one line in the log.
    """

    def __init__(self, function: Callable[[Inputs], Outputs]) -> None:
        self.function = function
        self.is_refused = False
        self.forget()

    def forget(self) -> None:
        """Frees the graphs; needed where what the function does or reads has changed."""
        self.recordings: dict[Hashable, Recording[Inputs, Outputs]] = {}
        self.calls = Counter[Hashable]()

    def __call__(self, inputs: Inputs) -> Outputs:
        if self.is_refused or not self._is_on_gpu(inputs):
            return self.function(inputs)
        shapes = tuple((each.shape, each.stride(), each.dtype) for each in tensors_in(inputs))
        self.calls[shapes] += 1
        if self.calls[shapes] <= NUM_EAGER:
            return self._beside(inputs)
        if shapes not in self.recordings and not self._keep_recording(shapes, inputs):
            return self.function(inputs)
        recording = self.recordings[shapes]
        for own, given in zip(tensors_in(recording.inputs), tensors_in(inputs), strict=True):
            own.copy_(given, non_blocking=True)
        recording.replay()
        return recording.outputs

    def _is_on_gpu(self, inputs: Inputs) -> bool:
        return next(tensors_in(inputs)).is_cuda

    def _beside(self, inputs: Inputs) -> Outputs:
        """The function on the stream on which it is recorded later, as autograd needs it."""
        stream = recording_stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            outputs = self.function(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return outputs

    def _keep_recording(self, shapes: Hashable, inputs: Inputs) -> bool:
        """Whether a graph could be recorded; on return no exception refers to its memory."""
        try:
            self.recordings[shapes] = self._record(inputs)
        except Exception as error:
            self._refuse(error)
            return False
        return True

    def _record(self, inputs: Inputs) -> Recording[Inputs, Outputs]:
        own, graph = copied(inputs), torch.cuda.CUDAGraph()
        stream = recording_stream(torch.cuda.current_device())
        # Threads that send the next batch may go on to use the device
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            outputs = self.function(own)
        return Recording(own, outputs, graph.replay)

    def _refuse(self, error: Exception) -> None:
        self.is_refused = True
        self.forget()
        kind, reason = type(error).__name__, str(error).strip().split("\n")[0]
        if kind not in SAID:  # else each evaluation would say it again
            SAID.add(kind)
            logger.warning("no CUDA graph, steps take longer: %s: %s", kind, reason)


@cache
def recording_stream(device: int) -> torch.cuda.Stream:
    """The stream on which this process records on a device.

    Memory belongs to a stream: with one, what the first calls of a function took serves the others.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def tensors_in(tree: Tree) -> Iterator[Tensor]:
    """The tensors of a tree, in its order."""
    if isinstance(tree, Tensor):
        yield tree
        return
    for each in tree.values() if isinstance(tree, Mapping) else tree:
        yield from tensors_in(each)


def copied(tree: Inputs) -> Inputs:
    """The same tree of copies."""

    def copy(part: Tree) -> Tree:
        if isinstance(part, Tensor):
            return part.clone()
        if isinstance(part, Mapping):
            return {name: copy(each) for name, each in part.items()}
        return type(part)(*map(copy, part))  # a named tuple

    return cast(Inputs, copy(tree))
