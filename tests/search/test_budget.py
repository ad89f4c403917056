"""Limits and what a space can reach."""

import pytest

from search.budget import Budget, Costs, least
from spaces import load_space, space_names
from trainables.config import TrialConfig
from trainables.size import count_macs, predict_size_bytes


def test_costs_at_a_limit_are_within_it() -> None:
    budget = Budget(size_bytes=1000, macs=50)
    assert budget.complaint(Costs(size_bytes=1000, macs=50, latency_ms=9)) == ""
    assert budget.excess(Costs(size_bytes=1000, macs=25)) == pytest.approx(
        {"size_bytes": 0, "macs": -0.6931}, abs=1e-4
    )


def test_a_complaint_names_cost_and_limit() -> None:
    budget = Budget(size_bytes=1000, latency_ms=2.5)
    assert budget.complaint(Costs(size_bytes=1200, macs=1, latency_ms=3.25)) == (
        "size_bytes 1,200, the limit is 1,000, latency_ms 3.25, the limit is 2.5"
    )


@pytest.mark.parametrize("name", [name for name in space_names() if name != "mixed"])
def test_the_least_of_a_space_is_at_its_corner(name: str) -> None:
    named = load_space(name)

    def size(config: TrialConfig) -> float:
        return predict_size_bytes(config, 5)

    smallest = least(named.space, size, named.known_settings)
    assert smallest.student.width == 4
    if smallest.quantizer:
        assert smallest.quantizer.weight_bits == 2
    else:
        assert smallest.student.depth == (2 if name == "supervised" else 4)
    cheapest = least(
        named.space, lambda config: count_macs(config.student, 5, 32, 32), named.known_settings
    )
    assert cheapest.student.width == 4
