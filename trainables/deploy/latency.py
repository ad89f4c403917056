"""Latency of a network for one image in ONNX Runtime, which needs no trained weights."""

import hashlib
import json
import os
import platform
import statistics
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue
from torch import nn

from trainables.core.artifacts import ArtifactStore
from trainables.core.config_base import FrozenConfig
from trainables.core.optional_dependencies import require_onnx
from trainables.deploy.runtime import CPU, open_session
from trainables.models.model_file import ModelSpec
from trainables.quantization.prepare import calibrate

FORMAT = 1
WARM_UP, LEAST_RUNS, MOST_RUNS = 3, 10, 100
LEAST_SECONDS, MOST_SECONDS = 0.3, 1.5
"""`MOST_RUNS` are enough after the first time, `LEAST_RUNS` after the second. In less than the
first the clock ticks of other processes would say nothing."""
LATENCY_FILE = "latency.json"
STAT = Path("/proc/stat")
"""Where Linux says how its cores spend their time."""
CALIBRATION_SHAPE = (2, 3, 64, 64)
"""Of random images (B,3,H,W); several pixels at a stride of 32, so that chance hardly decides
whether a grid has negative integers."""


OTHER_CORES = 0.25
"""Cores that other processes may use while a latency is measured before it counts as disturbed."""


class Latency(FrozenConfig):
    """Milliseconds for one image: the median, the 10th and the 90th percentile.

    `other_cores` is how many cores other processes used meanwhile, on average; None where the
    system does not say, and in files of older versions.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    num_runs: int
    num_threads: int
    provider: str
    machine: str
    height: int
    width: int
    other_cores: float | None = None

    @property
    def is_disturbed(self) -> bool:
        """Whether it was measured beside other work."""
        return self.other_cores is not None and self.other_cores > OTHER_CORES


def measure_latency(
    content: bytes, height: int, width: int, provider: str = CPU, num_threads: int = 1
) -> Latency:
    """Times an ONNX model on one image of `height` x `width` pixels, after a warm-up."""
    session = open_session(content, provider, num_threads)
    images = np.random.default_rng(0).standard_normal((1, 3, height, width), np.float32)
    times: list[float] = []
    for _ in range(WARM_UP):
        session.run(None, {"images": images})
    busy, begin = others_seconds(), time.perf_counter()
    while len(times) < MOST_RUNS or time.perf_counter() - begin < LEAST_SECONDS:
        before = time.perf_counter()
        session.run(None, {"images": images})
        times.append(1e3 * (time.perf_counter() - before))
        if len(times) >= LEAST_RUNS and time.perf_counter() - begin > MOST_SECONDS:
            break
    seconds, more = time.perf_counter() - begin, others_seconds()
    other_cores = None if busy is None or more is None else max(0.0, more - busy) / seconds
    low, *_, high = statistics.quantiles(times, n=10)
    return Latency(
        median_ms=statistics.median(times),
        low_ms=low,
        high_ms=high,
        num_runs=len(times),
        num_threads=num_threads,
        provider=provider,
        machine=machine_name(),
        height=height,
        width=width,
        other_cores=other_cores,
    )


def others_seconds() -> float | None:
    """CPU seconds of all other processes since this machine started, to a hundredth.

    None where the system does not say.
    """
    try:
        fields = STAT.read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _, _, *interrupts = map(int, fields)  # idle and waiting are not work
    ticks = user + nice + system + sum(interrupts)
    if not ticks:  # as in some sandboxes
        return None
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def predict_latency(spec: ModelSpec, height: int, width: int, store: ArtifactStore) -> Latency:
    """The latency, on this machine's CPU, of the `onnx-int8` export of a network of this spec.

    It is measured once for networks with equal graphs, and cached.

    Raises:
        NotExportable: the network has an operation that the export does not know.
        ValueError: ONNX Runtime is not installed.
    """
    require_onnx("latency")
    import onnx

    from trainables.deploy.onnx_export import to_onnx

    model = to_onnx(untrained(spec), spec.num_classes, "onnx-int8", {})

    def build(folder: Path) -> None:
        latency = measure_latency(model.SerializeToString(), height, width)
        (folder / LATENCY_FILE).write_text(latency.model_dump_json(indent=1))

    shape: onnx.GraphProto = onnx.GraphProto()
    shape.CopyFrom(model.graph)
    for constant in shape.initializer:
        if constant.data_type != onnx.TensorProto.INT64:  # INT64 constants are shapes
            constant.ClearField("raw_data")
    graph = hashlib.sha256(shape.SerializeToString(deterministic=True)).hexdigest()
    key = {"graph": graph, **latency_conditions(height, width)}
    folder = store.get("latency", key, build).path
    return Latency.model_validate(json.loads((folder / LATENCY_FILE).read_text()))


def latency_conditions(height: int, width: int) -> dict[str, JsonValue]:
    """Everything besides the network that determines its latency on this machine's CPU."""
    import onnxruntime

    return {
        "format": FORMAT,
        "image": [height, width],
        "onnxruntime": str(onnxruntime.__version__),
        "machine": machine_name(),
    }


@lru_cache(maxsize=8)  # a network takes up to 64 MB
def untrained_of(spec_json: str) -> nn.Module:
    spec = ModelSpec.model_validate_json(spec_json)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = spec.build()
        if spec.quantizer:  # calibration makes grids behind a ReLU unsigned, which is faster
            calibrate(model, torch.randn(*CALIBRATION_SHAPE))
        return spec.convert(model)


def untrained(spec: ModelSpec) -> nn.Module:
    """A network of this spec as it would be exported, with random weights."""
    return untrained_of(spec.model_dump_json())


def machine_name() -> str:
    """The name of the processor, as far as the system gives it."""
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.machine())
