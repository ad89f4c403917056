"""The end of a time budget."""

import math

import pytest

from search import cluster
from search.cluster import NEARLY_DONE, OVERTIME, Deadline


def test_only_what_is_nearly_done_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now[0])
    deadline = Deadline(60, num_epochs=10)
    now[0] = 150.0
    deadline.start()
    now[0] = 209.0
    assert not deadline.is_over
    assert not deadline("a", {"training_iteration": 1})
    now[0] = 210.0
    assert deadline.is_over
    last = math.ceil(10 * NEARLY_DONE)
    assert deadline("a", {"training_iteration": last - 1})
    assert not deadline("b", {"training_iteration": last})
    assert deadline.last_s == pytest.approx(60 * (1 + OVERTIME))


def test_without_a_budget_there_is_no_end() -> None:
    deadline = Deadline(None, num_epochs=10)
    assert not deadline.is_over
    assert deadline.last_s is None
    assert not deadline("a", {"training_iteration": 1})
