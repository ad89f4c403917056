"""How busy devices are, with a driver of GPUs that the test stands in for."""

from types import SimpleNamespace

import pynvml
import pytest

from search.execution.utilization import (
    device_name,
    device_utilization,
    share_of,
    utilization_here,
    visible_gpus,
)

BUSY = {0: 90, 1: 30, 2: None}
"""Per cent by GPU; the last one is divided, and its driver does not say it."""


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def rates(handle: int) -> SimpleNamespace:
        if BUSY[handle] is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=BUSY[handle])

    def by_uuid(name: str) -> int:
        if name == "GPU-":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
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
        ("0,GPU-", (1, 0.9)),  # CUDA knows names by their beginning, NVML does not
    ],
)
def test_the_gpus_that_are_visible_count(
    gpus: None, visible: str | None, expected: tuple[int, float]
) -> None:
    count, busy = utilization_here("cuda", visible)
    assert (count, busy) == (expected[0], pytest.approx(expected[1]))


def test_of_a_search_on_cpus_they_count(gpus: None) -> None:
    count, busy = utilization_here("cpu")
    assert count >= 1
    assert 0 <= busy <= count
    share = device_utilization("cpu")()
    assert share is not None
    assert 0 <= share <= 1


def test_where_nvml_says_nothing_nothing_is_said() -> None:
    if any(visible_gpus(None)):
        pytest.skip("there is a GPU")
    assert device_utilization("cuda")() is None
    assert device_name("cuda") == "cuda"


def test_a_device_has_a_name(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda handle: f"card {handle}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert device_name("cuda") == "card 1"
    assert device_name("cpu") not in ("", "cpu")


def test_the_share_of_all_devices_is_taken() -> None:
    assert share_of([(8, 4.0), (2, 2.0)]) == 0.6
    assert share_of([(0, 0.0)]) is None
    assert share_of([]) is None
