"""How many trials fit."""

import pytest

from search.resources import CONTEXT_BYTES, MOST_TRIALS, Share, num_parallel, share_gpu

GIB = 1 << 30


@pytest.mark.parametrize(
    ("peak", "total", "cpus", "trials"),
    [
        (10 * GIB, 80 * GIB, 16, 6),
        (GIB // 8, 80 * GIB, 16, MOST_TRIALS),
        (GIB // 8, 80 * GIB, 3, 3),
        (80 * GIB, 80 * GIB, 16, 1),
        (3 * GIB, 8 * GIB, 16, 2 if 7.2 * GIB / (3 * GIB + CONTEXT_BYTES) >= 2 else 1),
    ],
)
def test_no_more_trials_share_a_gpu_than_it_holds(
    peak: int, total: int, cpus: float, trials: int
) -> None:
    share = share_gpu(cpus, peak, total)
    assert share.gpus == 1 / trials
    assert share.cpus >= 1
    assert share.cpus * trials <= max(cpus, trials)
    assert num_parallel(share, {"CPU": 2 * cpus, "GPU": 2}) == 2 * trials


def test_a_cpu_runs_as_many_trials_as_it_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert num_parallel(Share(cpus=1, gpus=0), {"CPU": 2}) == 2
    assert num_parallel(Share(cpus=4, gpus=0), {"CPU": 2}) == 1
    assert num_parallel(Share(cpus=1, gpus=1 / 3), {"CPU": 64, "GPU": 1}) == 3
