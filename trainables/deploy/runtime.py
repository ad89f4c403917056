"""Runs an exported model: a model file by PyTorch, an ONNX file by ONNX Runtime."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainables.core.command_line import first_line
from trainables.core.optional_dependencies import require_onnx
from trainables.models.model_file import read_model

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
PRECISION = "session.x64quantprecision"
"""ONNX Runtime's setting without which processors that have AVX2 but not VNNI saturate the sums of
8-bit products at 16 bits, so that a network computes other classes there."""
Floats = NDArray[np.float32]
Network = Callable[[Floats], Floats]
"""From normalised images (B,3,H,W) to logits (B,K,H,W); ValueError for unsupported images."""


def open_model(path: Path) -> Network:
    """The network of a `.safetensors` or an `.onnx` file.

    Raises:
        ValueError: it is neither, or damaged, or ONNX Runtime is not installed.
    """
    if not path.is_file():
        raise ValueError(f"the model must be a file, but there is no {path}")
    match path.suffix:
        case ".safetensors":
            return module_network(read_model(path))
        case ".onnx":
            return onnx_network(path)
        case _:
            raise ValueError(f"a model must end in .safetensors or .onnx, but got {path}")


def module_network(model: nn.Module) -> Network:
    """A PyTorch network, in evaluation mode, on the CPU."""

    def run(images: Floats) -> Floats:
        with torch.inference_mode():
            logits: Floats = model(torch.from_numpy(images)).numpy()
        return logits

    return run


def onnx_network(path: Path) -> Network:
    require_onnx("an .onnx model")
    with onnx_errors(path):
        network = session_network(open_session(path.read_bytes(), CPU, 0))

    def run(images: Floats) -> Floats:
        with onnx_errors(path):
            return network(images)

    return run


@contextmanager
def onnx_errors(path: Path) -> Iterator[None]:
    """Turns errors of ONNX Runtime on a model into a ValueError of one line."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    try:
        yield
    except (
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.InvalidProtobuf,
        errors.NotImplemented,
        errors.RuntimeException,
    ) as error:
        reason = first_line(error)
        raise ValueError(f"{path} must be an intact ONNX model, but: {reason}") from error


def session_network(session: Any) -> Network:
    """An ONNX Runtime session as a network."""

    def run(images: Floats) -> Floats:
        logits: Floats = session.run(None, {"images": images})[0]
        return logits

    return run


def open_session(content: bytes, provider: str, num_threads: int) -> Any:
    """An ONNX Runtime session; 0 threads means one thread for each core.

    Raises:
        ValueError: ONNX Runtime would use another provider instead.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry(PRECISION, "1")
    session = onnxruntime.InferenceSession(content, options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise ValueError(f"ONNX Runtime must be able to use {provider}, but it cannot here")
    return session


def available_providers() -> list[str]:
    """The execution providers of the installed ONNX Runtime."""
    import onnxruntime

    return list(onnxruntime.get_available_providers())
