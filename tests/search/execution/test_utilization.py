"""How busy devices are, with a driver of GPUs that the test stands in for."""

from types import SimpleNamespace

import pynvml
import pytest

from search.execution.utilization import device_utilization, share_of, utilization_here

BUSY = {0: 90, 1: 30, 2: None}
"""Per cent by GPU; the last one is divided, and its driver does not say it."""


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def rates(handle: int) -> SimpleNamespace:
        if BUSY[handle] is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=BUSY[handle])

    def by_uuid(name: str) -> int:
        return {"GPU-b": 1, "MIG-c": 2}[name]

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(BUSY))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", by_uuid)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", rates)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, (2, 1.2)),
        ("1", (1, 0.3)),
        ("0, GPU-b", (2, 1.2)),
        ("MIG-c", (0, 0.0)),
        ("0,MIG-c", (1, 0.9)),
    ],
)
def test_the_gpus_that_are_visible_count(
    gpus: None, visible: str | None, expected: tuple[int, float]
) -> None:
    count, busy = utilization_here(visible)
    assert (count, busy) == (expected[0], pytest.approx(expected[1]))


@pytest.mark.parametrize("visible", [None, "", "9"])
def test_without_a_gpu_the_cpus_count(visible: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    count, busy = utilization_here(visible)
    assert count >= 1
    assert 0 <= busy <= count
    share = device_utilization()()
    assert share is not None
    assert 0 <= share <= 1


def test_the_share_of_all_devices_is_taken() -> None:
    assert share_of([(8, 4.0), (2, 2.0)]) == 0.6
    assert share_of([(0, 0.0)]) is None
    assert share_of([]) is None
