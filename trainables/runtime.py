"""Runs a shipped model, whatever its form: a model file by PyTorch, ONNX by ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.extras import require_onnx
from trainables.latency import CPU
from trainables.models.file import read_model

Floats = NDArray[np.float32]
Network = Callable[[Floats], Floats]
"""From normalised images (B,3,H,W) to logits (B,K,H,W)."""


def open_model(path: Path) -> Network:
    """The network of a `.safetensors` or an `.onnx` file.

    Raises:
        ValueError: it is neither, or damaged, or ONNX Runtime is not installed.
    """
    if not path.is_file():
        raise ValueError(f"the model must be a file, but there is no {path}")
    match path.suffix:
        case ".safetensors":
            return torch_network(path)
        case ".onnx":
            return onnx_network(path)
        case _:
            raise ValueError(f"a model must end in .safetensors or .onnx, but got {path}")


def torch_network(path: Path) -> Network:
    model = read_model(path)

    def run(images: Floats) -> Floats:
        with torch.inference_mode():
            logits: Floats = model(torch.from_numpy(images)).numpy()
        return logits

    return run


def onnx_network(path: Path) -> Network:
    require_onnx("an .onnx model")
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    try:
        session = open_session(path.read_bytes(), CPU, 0)
    except (errors.InvalidProtobuf, errors.InvalidGraph, errors.Fail, errors.InvalidArgument) as e:
        reason = str(e).splitlines()[0]
        raise ValueError(f"{path} must be an intact ONNX model, but: {reason}") from e

    def run(images: Floats) -> Floats:
        logits: Floats = session.run(None, {"images": images})[0]
        return logits

    return run


def open_session(content: bytes, provider: str, num_threads: int) -> Any:
    """An ONNX Runtime session; 0 threads are as many as there are cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=[provider])
