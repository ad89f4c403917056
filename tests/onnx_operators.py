"""What ONNX Runtime executes for a model."""

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime

from trainables.deploy.runtime import CPU, PRECISION


def operators_of_onnxruntime(content: bytes, folder: Path) -> Counter[str]:
    """The operators of the graph that ONNX Runtime has optimized."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    options.add_session_config_entry(PRECISION, "1")
    onnxruntime.InferenceSession(content, options, providers=[CPU])
    graph = onnx.load(options.optimized_model_filepath).graph
    return Counter(node.op_type.replace("FusedConv", "Conv") for node in graph.node)


def count_float_layers(content: bytes, folder: Path) -> int:
    """How many layers ONNX Runtime computes on floats."""
    operators = operators_of_onnxruntime(content, folder)
    return sum(operators[kind] for kind in ("Conv", "ConvTranspose", "Gemm", "MatMul"))
