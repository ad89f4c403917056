"""Networks of which a latency is measured."""

import gc
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainables.core.artifacts import ArtifactStore
from trainables.deploy import latency
from trainables.deploy.latency import OTHER_CORES, others_seconds, predict_latency, untrained
from trainables.models.configs import UNetConfig
from trainables.models.model_file import ModelSpec
from trainables.quantization.convert import ConvertedLayer
from trainables.quantization.quantizers.configs import Lsq


def spec(num_classes: int) -> ModelSpec:
    return ModelSpec(model=UNetConfig(width=4, depth=2), num_classes=num_classes, quantizer=Lsq())


def test_few_networks_are_kept_in_memory() -> None:
    kept = [weakref.ref(untrained(spec(num_classes))) for num_classes in range(2, 14)]
    gc.collect()  # networks are part of reference cycles
    assert sum(network() is not None for network in kept) == 8
    assert untrained(spec(13)) is kept[-1]()


def test_grids_behind_a_relu_are_unsigned() -> None:
    layers = [m for m in untrained(spec(5)).modules() if isinstance(m, ConvertedLayer)]
    assert [layer.grid.zero_point for layer in layers if layer.grid] == [128] + [0] * (
        len(layers) - 1
    )


@pytest.mark.skipif(not latency.STAT.is_file(), reason="the system has no /proc")
def test_the_work_of_other_processes_is_seen() -> None:
    before = others_seconds()
    subprocess.run(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True
    )
    after = others_seconds()
    assert before is not None
    assert after is not None
    assert after - before > 0.4


def test_one_s_own_work_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = iter(("cpu 100 0 50 900 5 0 0 0", "cpu 150 0 50 950 5 0 0 0"))
    own = iter((1.0, 1.5))
    monkeypatch.setattr(Path, "read_text", lambda path: next(fields) + "\ncpu0 1 2 3")
    monkeypatch.setattr(time, "process_time", lambda: next(own))
    monkeypatch.setattr(latency.os, "sysconf", lambda name: 100)
    assert others_seconds() == 0.5
    assert others_seconds() == 0.5  # 0.5 s more of all, which are its own


def load_of(cores: float) -> Iterator[float]:
    """CPU seconds of other processes that use so many cores."""
    while True:
        yield cores * time.perf_counter()


def test_a_latency_that_was_measured_beside_other_work_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    store, load = ArtifactStore(tmp_path), load_of(1.5)
    monkeypatch.setattr(latency, "others_seconds", lambda: next(load))
    found = predict_latency(spec(3), 32, 32, store)
    assert found.is_disturbed
    assert found.other_cores == pytest.approx(1.5, abs=0.2)
    load = load_of(OTHER_CORES / 2)
    assert predict_latency(spec(3), 32, 32, store) == found  # as it was measured
    assert not predict_latency(spec(4), 32, 32, store).is_disturbed
    monkeypatch.setattr(latency, "others_seconds", lambda: None)
    assert not predict_latency(spec(5), 32, 32, store).is_disturbed
