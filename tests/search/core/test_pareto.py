"""The front against brute force, the hypervolume against counted cells."""

from dataclasses import replace

import numpy as np
import pytest
from factories import make_metrics
from hypothesis import given
from hypothesis import strategies as st

from search.core.objectives import MIOU_AND_SIZE, named_objectives
from search.core.pareto import cost_range_of, hypervolume, mious_within, pareto_front
from search.core.record import Record, RecordState
from trainables.config import TrialConfig
from trainables.recipes.configs import Supervised


def record(
    number: int, miou: float, size_bytes: int | None, state: RecordState = "COMPLETE"
) -> Record:
    metrics = make_metrics(miou, size_bytes)
    return Record(f"{number:04d}", state, "", TrialConfig(recipe=Supervised()), metrics)


def dominates(a: Record, b: Record) -> bool:
    one, other = a.values(), b.values()
    assert one is not None
    assert other is not None
    return one[0] >= other[0] and one[1] <= other[1] and one != other


POINTS = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 8)), max_size=25)


@given(POINTS)
def test_front_equals_brute_force(points: list[tuple[int, int]]) -> None:
    records = [record(i, miou / 8, size) for i, (miou, size) in enumerate(points)]
    front = pareto_front(records)
    expected = {r.values() for r in records if not any(dominates(other, r) for other in records)}
    assert {r.values() for r in front} == expected
    assert len(front) == len(expected)  # of equal points one
    sizes = [values[1] for r in front if (values := r.values())]
    assert sizes == sorted(sizes)


@given(POINTS, st.integers(0, 7))
def test_hypervolume_equals_counted_cells(points: list[tuple[int, int]], least: int) -> None:
    records = [record(i, miou / 8, 2**size) for i, (miou, size) in enumerate(points)]
    cells = np.zeros((8, 11))  # sizes from 2 to 2 ** 11 by their logarithm, and a tenth beyond
    for miou, size in points:
        cells[:miou, size - 1 :] = 1
    span = np.array([[2.0], [2.0**11]])
    counted = hypervolume(records, span, MIOU_AND_SIZE, least / 8)
    assert counted == pytest.approx(cells[least:].mean())


def test_the_best_miou_within_a_size_is_that_of_a_finished_student() -> None:
    records = [
        record(0, 0.3, 50_000),
        record(1, 0.5, 90_000),
        record(2, 0.4, 1_000_001),
        record(3, 0.9, 10_000, "FAIL"),
    ]
    assert mious_within(records) == {50: 0.3, 100: 0.5, 300: 0.5, 1000: 0.5}
    assert mious_within(records[1:]) == {100: 0.5, 300: 0.5, 1000: 0.5}
    assert mious_within([]) == {}


def test_partly_trained_and_failed_trials_are_never_on_the_front() -> None:
    records = [
        record(0, 0.5, 100),
        record(1, 0.9, None, "PRUNED"),
        record(2, 0.9, 10, "FAIL"),
        record(3, 0.9, None, "RUNNING"),
    ]
    assert [r.trial_id for r in pareto_front(records)] == ["0000"]
    assert pareto_front(records[1:]) == []
    span = cost_range_of(np.array([[100.0]]))
    assert hypervolume(records[1:], span, MIOU_AND_SIZE) == 0
    assert hypervolume(records, span, MIOU_AND_SIZE) == 0.5


def test_a_third_objective_keeps_what_is_best_in_it_alone() -> None:
    objectives = named_objectives(("miou", "size", "latency"))
    records = [
        replace(record(number, miou, size), latency_ms=latency)
        for number, (miou, size, latency) in enumerate(
            [(0.5, 100, 9.0), (0.4, 200, 3.0), (0.4, 200, 4.0)]
        )
    ]
    assert [r.trial_id for r in pareto_front(records)] == ["0000"]
    assert [r.trial_id for r in pareto_front(records, objectives)] == ["0000", "0001"]
    span = cost_range_of(np.array([record.measured(objectives[1:]) for record in records]))
    assert span.tolist() == [[100, 3], [200, 9]]
    # of 1.1 by 1.1: all of one for the first but in latency, all of the other but in size
    share = 0.5 * 1.1 * 0.1 + 0.4 * 0.1 * 1.1 - 0.4 * 0.1 * 0.1
    assert hypervolume(records, span, objectives) == pytest.approx(share / 1.21)
