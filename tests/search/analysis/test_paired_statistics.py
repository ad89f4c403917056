"""Paired differences against published values, and against SciPy's t-test."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from search.analysis.paired_statistics import CONFIDENCE, paired_difference

MIOU = st.floats(0, 1).map(lambda value: round(value, 4))
PAIRS = st.lists(st.tuples(MIOU, MIOU), min_size=2, max_size=12)


def test_a_known_interval() -> None:
    """Student (1908): hours of sleep that one drug gained over another, for ten patients."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired_difference(dict(enumerate(second)), dict(enumerate(first)))
    assert found is not None
    assert found.mean == pytest.approx(1.58)
    assert found.deviation == pytest.approx(1.2300, abs=1e-4)
    assert found.interval == pytest.approx((0.7001, 2.4599), abs=1e-4)
    assert (found.num_pairs, found.verdict) == (10, "better")


@given(PAIRS)
def test_it_is_the_interval_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    values, reference = ({seed: pair[i] for seed, pair in enumerate(pairs)} for i in (0, 1))
    found = paired_difference(values, reference)
    assert found is not None
    assert found.interval is not None
    if found.deviation and found.deviation > 1e-9:
        test = stats.ttest_rel([a for a, _ in pairs], [b for _, b in pairs])
        interval = test.confidence_interval(CONFIDENCE)
        assert found.interval == pytest.approx((interval.low, interval.high), abs=1e-9)
        if not math.isclose(test.pvalue, 1 - CONFIDENCE, rel_tol=1e-6):
            assert (found.verdict == "within noise") == (test.pvalue > 1 - CONFIDENCE)


@given(PAIRS)
def test_the_opposite_difference_has_the_opposite_verdict(
    pairs: list[tuple[float, float]],
) -> None:
    values, reference = ({seed: pair[i] for seed, pair in enumerate(pairs)} for i in (0, 1))
    there, back = paired_difference(values, reference), paired_difference(reference, values)
    assert there is not None
    assert back is not None
    assert there.mean == pytest.approx(-back.mean)
    assert {"better": "worse", "worse": "better"}.get(str(there.verdict), there.verdict) == (
        back.verdict
    )


def test_only_seeds_of_both_are_pairs() -> None:
    found = paired_difference({0: 0.5, 1: 0.9, 2: 0.6}, {0: 0.4, 2: 0.5, 3: 0.0})
    assert found is not None
    assert found.num_pairs == 2
    assert found.mean == pytest.approx(0.1)


def test_one_pair_has_no_interval_and_none_no_difference() -> None:
    found = paired_difference({0: 0.5}, {0: 0.25})
    assert found is not None
    assert (found.mean, found.interval, found.verdict) == (0.25, None, None)
    assert paired_difference({0: 0.5}, {1: 0.25}) is None


def test_what_does_not_differ_is_within_noise() -> None:
    same = {0: 0.5, 1: 0.6}
    found = paired_difference(same, same)
    assert found is not None
    assert (found.interval, found.verdict) == ((0, 0), "within noise")
