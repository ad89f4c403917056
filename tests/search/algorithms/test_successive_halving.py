"""Which trials are promoted at a rung: examples, properties, and replays."""

import math
from typing import Any

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.algorithms.successive_halving import SuccessiveHalving, epsilon_net, rung_epochs
from search.core.record import RungDecision

SIZES = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda pair: (float(pair[0]), pair[1])),
    min_size=1,
    max_size=40,
)


def run(losses: list[tuple[float, ...]], reduction: float = 3) -> list[bool]:
    """The decisions on trials that come to one rung in this order."""
    halving = SuccessiveHalving([1], 9, reduction, confidence_width=0)
    rung_decisions = [halving.report(str(n), 1, each) for n, each in enumerate(losses)]
    return [decision.promoted for decision in rung_decisions if decision]


@pytest.mark.parametrize(
    ("max_epochs", "grace", "reduction", "rungs"),
    [
        (27, 1, 3, (1, 3, 9)),
        (9, 1, 3, (1, 3)),
        (8, 1, 3, (1, 3)),
        (20, 1, 3, (2, 7)),
        (60, 1, 3, (2, 7, 20)),
        (60, 5, 3, (7, 20)),
        (16, 1, 2, (1, 2, 4, 8)),
        (9, 9, 3, ()),
        (2, 1, 3, ()),
        (1, 1, 3, ()),
    ],
)
def test_rungs(max_epochs: int, grace: int, reduction: float, rungs: tuple[int, ...]) -> None:
    assert rung_epochs(max_epochs, grace, reduction) == rungs


@pytest.mark.parametrize(("grace", "reduction"), [(0, 3), (1, 1)])
def test_numbers_out_of_range(grace: int, reduction: float) -> None:
    with pytest.raises(ValueError, match="must hold, but got"):
        rung_epochs(9, grace, reduction)


def test_a_single_trial_is_promoted() -> None:
    assert run([(5.0, 5.0)]) == [True]


def test_a_dominated_trial_is_stopped() -> None:
    assert run([(1.0, 1.0), (2.0, 2.0), (1.0, 2.0)]) == [True, False, False]


def test_both_ends_of_the_front_are_promoted() -> None:
    front = [(float(n), 9.0 - n) for n in range(10)]
    assert run(front) == [True] * 10


def test_equal_values_are_equal() -> None:
    assert run([(1.0, 1.0)] * 5) == [True] * 5


def test_a_third_is_promoted_where_few_are_dominated() -> None:
    chain = [(float(n), float(n)) for n in range(9)]
    assert run(chain) == [True] + [False] * 8
    assert run(chain[::-1]) == [True] * 9
    # of seven there is room for three: the best, and two of those that only it dominates
    assert run([(0.0, 0.0), (9.0, 9.0), (8.0, 8.0), (7.0, 7.0), (6.0, 6.0), (5.0, 5.0)])[1:] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_a_late_trial_is_compared_with_all_before_it() -> None:
    halving = SuccessiveHalving([1, 3], 9, confidence_width=0)
    for number in range(6):
        halving.report(str(number), 1, (float(number), float(number)))
        if number < 3:
            halving.report(str(number), 3, (float(-number), float(-number)))
    straggler = halving.report("5", 3, (0.5, 0.5))
    assert straggler is not None
    assert (straggler.rung, straggler.sequence_number, straggler.promoted) == (3, 9, False)


def test_a_rung_between_two_reports_has_no_decision() -> None:
    halving = SuccessiveHalving([1, 3], 9, confidence_width=0)
    assert halving.report("a", 4, (1.0, 1.0)) == RungDecision("a", 3, 0, (1.0, 1.0), True)
    assert halving.report("a", 5, (1.0, 1.0)) is None
    assert halving.rung_decisions[1] == {}
    first = halving.report("b", 2, (2.0, 2.0))
    assert first is not None
    assert (first.rung, first.promoted) == (1, True)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_never_promoted(bad: float) -> None:
    assert run([(bad, 1.0), (1.0, 1.0), (bad, 0.0)]) == [False, True, False]


def test_any_number_of_objectives() -> None:
    assert run([(1.0,), (2.0,), (0.0,)]) == [True, False, True]
    assert run([(1.0, 2.0, 3.0), (1.0, 2.0, 4.0), (9.0, 9.0, 0.0)]) == [True, False, True]


@given(SIZES)
def test_a_non_dominated_trial_is_never_stopped(losses: list[tuple[float, ...]]) -> None:
    for number, promoted in enumerate(run(losses)):
        own, before = np.array(losses[number]), np.array(losses[:number]).reshape(-1, 2)
        dominated = ((before <= own).all(axis=1) & (before < own).any(axis=1)).any()
        assert promoted or dominated


@given(SIZES)
def test_about_a_third_is_promoted_besides_the_front(losses: list[tuple[float, ...]]) -> None:
    for number, promoted in enumerate(run(losses)):
        ranks = moocore.pareto_rank(np.array(losses[: number + 1]))
        if promoted and ranks[-1] > 0:
            assert (ranks < ranks[-1]).sum() < math.ceil((number + 1) / 3)


@given(SIZES, st.randoms(), st.sampled_from([0.0, 1.0]))
def test_a_replayed_log_decides_as_the_live_one(
    losses: list[tuple[float, ...]], random: Any, confidence_width: float
) -> None:
    live = SuccessiveHalving([1, 3], 9, 2, confidence_width)
    log = []
    for number, each in enumerate(losses):
        for epoch in (1, 3, 9):
            noisy = (each[0] + random.random(), each[1])
            decision = live.report(str(number), epoch, noisy)
            assert decision
            log.append(decision)
            if not decision.promoted:
                break
    cut = random.randrange(len(log) + 1)
    kept = log[:cut]
    random.shuffle(kept)
    again = SuccessiveHalving([1, 3], 9, 2, confidence_width)
    again.replay(kept)
    assert (
        sorted(
            (a for rung in again.rung_decisions.values() for a in rung.values()),
            key=lambda a: a.sequence_number,
        )
        == log[:cut]
    )
    assert [again.report(a.trial_id, a.rung, a.minimized_values) for a in log[cut:]] == log[cut:]


def test_an_epsilon_net_takes_the_ends_then_the_farthest() -> None:
    line = np.array([(float(n), -float(n)) for n in range(9)])
    assert epsilon_net(line, 3) == [0, 8, 4]
    assert epsilon_net(line * (1000, 1), 3) == [0, 8, 4]
    assert epsilon_net(line, 1) == [0]


def test_until_some_have_finished_all_are_promoted() -> None:
    halving = SuccessiveHalving([1], 9)
    decisions = [halving.report(str(n), 1, (float(n), 1.0)) for n in range(9)]
    assert all(decision and decision.promoted for decision in decisions)
    bad = halving.report("bad", 1, (math.nan, 1.0))
    assert bad is not None
    assert not bad.promoted


@pytest.mark.parametrize(("noise", "promoted"), [(0.0, False), (0.01, False), (0.2, True)])
def test_the_confidence_width_follows_the_residuals(noise: float, promoted: bool) -> None:
    halving = SuccessiveHalving([1], 9)
    for number in range(6):
        value = 0.1 * number
        halving.report(str(number), 1, (value, 100.0))
        halving.report(str(number), 9, (value - 0.3 + noise * (-1) ** number, 100.0))
    late = halving.report("late", 1, (0.25, 100.0))
    assert late is not None
    assert late.promoted == promoted
    larger = halving.report("larger", 1, (2.0, 1000.0))  # its size is exact
    assert larger is not None
    assert not larger.promoted


def test_an_end_that_is_not_finite_is_left_out_of_the_fit() -> None:
    halving = SuccessiveHalving([1], 9)
    for number in range(6):
        halving.report(str(number), 1, (0.1 * number, 100.0))
        end = math.nan if number == 3 else 0.1 * number - 0.3
        halving.report(str(number), 9, (end, 100.0))
    far = halving.report("far", 1, (50.0, 5000.0))
    assert far is not None
    assert not far.promoted


def test_the_residual_std_is_per_degree_of_freedom() -> None:
    """Four ends are 0.2 off a line of slope 2: sqrt(4 * 0.2**2 / (4 - 2)) / 2 is 0.1414."""
    halving = SuccessiveHalving([1], 9)
    for number, sign in enumerate((1, -1, -1, 1)):
        halving.report(str(number), 1, (float(number),))
        halving.report(str(number), 9, (2 * number + 0.2 * sign,))
    beyond, within = (halving.report(str(loss), 1, (loss,)) for loss in (1.143, 1.14))
    assert beyond is not None
    assert within is not None
    assert (beyond.promoted, within.promoted) == (False, True)


def test_sequence_numbers_after_a_gap_stay_as_they_were() -> None:
    """As where the decisions on a trial were lost."""
    log = [RungDecision("a", 1, 0, (3.0,), True), RungDecision("b", 1, 4, (2.0,), True)]
    halving = SuccessiveHalving([1], 9, confidence_width=0)
    halving.replay(log)
    assert list(halving.rung_decisions[1].values()) == log
    assert halving.report("c", 1, (1.0,)) == RungDecision("c", 1, 5, (1.0,), True)
