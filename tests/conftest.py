"""What all test processes do, and which files they begin with."""

import gc
import os
from types import SimpleNamespace

import pytest

from search.execution import nodes

# Ray's workers run at niceness 15 otherwise, and starve beside the other test processes
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray reads it so

LONGEST = (
    "test_faults.py",
    "test_run.py",
    "test_signals.py",
    "test_compare.py",
    "test_compress.py",
    "test_mlflow_pages.py",
    "test_trial.py",
    "test_checkpoints.py",
    "test_distill.py",
    "test_export.py",
    "test_students.py",
    "test_searcher.py",
)
"""Files that take long: begun last, one would leave the other process idle."""


def pytest_configure(config: pytest.Config) -> None:
    """Gives each process that runs tests their fixtures, and cores of its own for its searches.

    On cores that they share, two searches take more than twice as long as one. The process that
    only divides the tests among others need not import what the fixtures do.
    """
    worker = getattr(config, "workerinput", None)
    if worker is not None or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("shared_fixtures")
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores, index = sorted(os.sched_getaffinity(0)), int(worker["workerid"].removeprefix("gw"))
        os.sched_setaffinity(0, cores[index :: worker["workercount"]] or cores)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported stays: a collection need not look at it


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # else packages in C report what is never freed


@pytest.fixture(autouse=True)
def no_ray_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that tests run in this process do not begin to start Ray while they check.

    Most of them are wrong, and would end it at once. Those that need Ray start it all the same.
    """
    monkeypatch.setattr(nodes, "RayStart", SimpleNamespace(begin=lambda: None, now=None))
