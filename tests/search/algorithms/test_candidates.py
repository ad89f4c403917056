"""Points of spaces without an Optuna study."""

from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from search.algorithms.candidates import (
    SamplingTrial,
    contains,
    from_unit,
    perturb,
    sample_config,
    to_unit,
)
from spaces import load_space, space_names

DISTRIBUTIONS: list[BaseDistribution] = [
    FloatDistribution(-1, 3),
    FloatDistribution(1e-4, 1e-2, log=True),
    FloatDistribution(0, 1, step=0.25),
    IntDistribution(2, 8),
    IntDistribution(1, 64, log=True),
    IntDistribution(0, 12, step=4),
    IntDistribution(3, 3),
    CategoricalDistribution([4, 6, 8, 12]),
    CategoricalDistribution(["a", "b", None]),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
@given(place=st.floats(0, 1))
def test_a_place_gives_a_value_of_the_range(distribution: BaseDistribution, place: float) -> None:
    value = from_unit(place, distribution)
    assert contains(distribution, value)
    again = to_unit(value, distribution)
    assert 0 <= again <= 1
    assert from_unit(again, distribution) == pytest.approx(value) or isinstance(value, str | None)


VALUES = st.one_of(
    st.integers(-10, 70),
    st.floats(-2, 70, allow_nan=False),
    st.sampled_from([0.25, 0.75, 4.0, 8.0, 1e-3, "a", "c", None]),
)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
@given(value=VALUES)
def test_a_range_contains_what_optuna_takes(distribution: BaseDistribution, value: Any) -> None:
    try:
        optuna.trial.create_trial(value=0.0, params={"x": value}, distributions={"x": distribution})
    except (ValueError, TypeError):
        assert not contains(distribution, value)
    else:
        assert contains(distribution, value)


def test_each_way_to_suggest_of_an_optuna_trial_draws_absent_values() -> None:
    trial = SamplingTrial({"given": 3}, np.random.default_rng(0))
    values = {
        "given": trial.suggest_int("given", 1, 5),
        "rate": trial.suggest_float("rate", 1e-4, 1e-2, log=True),
        "count": trial.suggest_int("count", 0, 12, step=4),
        "choice": trial.suggest_categorical("choice", ["a", "b"]),
    }
    assert values["given"] == 3
    assert trial.params == values
    assert trial.suggest_float("rate", 1e-4, 1e-2, log=True) == values["rate"]
    for name, value in values.items():
        assert contains(trial.distributions[name], value)


def test_whole_numbers_and_choices_have_equal_shares() -> None:
    for distribution in (IntDistribution(2, 8), CategoricalDistribution(list("abcdefg"))):
        values = [from_unit((index + 0.5) / 700, distribution) for index in range(700)]
        assert {values.count(value) for value in set(values)} == {100}


@pytest.mark.parametrize("name", space_names())
def test_what_is_drawn_is_what_an_optuna_trial_gives(name: str) -> None:
    space = load_space(name).space
    config, drawn = sample_config(space, {}, seed=1)
    fixed: Any = optuna.trial.FixedTrial(drawn.params)
    assert space(fixed) == config
    assert sample_config(space, {}, seed=1)[0] == config
    assert sample_config(space, {}, seed=2)[0] != config


def test_given_values_are_taken_but_for_those_out_of_range() -> None:
    space = load_space("qkd").space
    given = {"student.width": 6, "recipe.quantizer.weight_bits": 99, "unknown": 1}
    config, drawn = sample_config(space, given)
    assert config.student.width == 6
    assert 2 <= drawn.params["recipe.quantizer.weight_bits"] <= 8
    assert "unknown" not in drawn.params


def test_a_neighbour_differs_and_is_mostly_alike() -> None:
    space, random = load_space("qkd").space, np.random.default_rng(0)
    _, drawn = sample_config(space, {}, seed=0)
    rates = []
    for _ in range(200):
        other = perturb(drawn.params, drawn.distributions, random)
        taken = sample_config(space, other)[1].params  # without the weight of a term that is gone
        assert taken.items() <= other.items()
        changed = [name for name in other if other[name] != drawn.params[name]]
        assert len(changed) < len(other)
        rates.append(np.log10(other["recipe.optimizer.learning_rate"]))
    own = np.log10(drawn.params["recipe.optimizer.learning_rate"])
    assert 0.02 < np.std(np.array(rates) - own) < 0.4
