"""Allocation of bit-widths by sensitivity, within a mean."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainables.config import TrialConfig
from trainables.models.configs import UNetConfig
from trainables.quantization.mixed_precision import (
    CHOICES,
    Sensitivity,
    allocate,
    uniform_minimum_sensitivity,
)
from trainables.quantization.prepare import prepare, quantizable_names
from trainables.quantization.quantizers.configs import MixedPrecision
from trainables.recipes.configs import Qat


def falling(scale: float) -> dict[int, float]:
    """The loss of rounding: a quarter with every bit."""
    return {bits: scale * 4.0**-bits for bits in CHOICES}


@given(
    st.lists(st.tuples(st.floats(0.01, 100), st.integers(1, 50)), min_size=1, max_size=4),
    st.floats(2, 8),
)
def test_the_mean_is_kept_and_hardly_any_allocation_is_better(
    layers: list[tuple[float, int]], mean: float
) -> None:
    losses = {str(i): falling(scale) for i, (scale, _) in enumerate(layers)}
    sizes = {str(i): size for i, (_, size) in enumerate(layers)}
    total = mean * sum(sizes.values())

    def cost(bits: dict[str, int]) -> float:
        return sum(bits[name] * sizes[name] for name in sizes)

    def loss(bits: dict[str, int]) -> float:
        return sum(losses[name][bits[name]] for name in sizes)

    got = allocate(losses, sizes, mean)
    assert cost(got) <= total + 1e-9
    every = (dict(zip(sizes, bits, strict=True)) for bits in product(CHOICES, repeat=len(sizes)))
    best = min(loss(bits) for bits in every if cost(bits) <= total)
    # the relaxation's solution: what it lacks is less than the greatest single raise
    assert loss(got) - best <= max(scale for scale, _ in layers) * 4.0**-2
    if len(layers) == 1:
        assert loss(got) == best


def test_a_sensitive_layer_gets_more_bits() -> None:
    losses = {"robust": falling(1), "fragile": falling(1000)}
    bits = allocate(losses, {"robust": 10, "fragile": 10}, 4)
    assert bits["fragile"] > bits["robust"]


@pytest.mark.parametrize("mean", CHOICES)
def test_a_raise_that_takes_all_that_is_left_is_made(mean: int) -> None:
    assert allocate({"only": falling(1)}, {"only": 7}, mean) == {"only": mean}
    both = {"one": falling(1), "two": falling(1)}
    assert set(allocate(both, {"one": 3, "two": 3}, mean).values()) == {mean}


def test_bits_that_do_not_help_are_not_spent() -> None:
    flat = dict.fromkeys(CHOICES, 0.5)
    assert allocate({"flat": flat}, {"flat": 10}, 8) == {"flat": 2}


def sensitivity(student: UNetConfig) -> Sensitivity:
    names = quantizable_names(student.build(5))
    losses = {name: falling(1 + index) for index, name in enumerate(names)}
    sizes = dict.fromkeys(names, 100)
    readers = {name: (name,) for name in names}
    return Sensitivity(
        weights=losses, inputs=losses, num_weights=sizes, num_inputs=sizes, readers=readers
    )


GROUP_OF = UNetConfig(width=3, depth=2).build(5).group_of


def test_an_allocation_names_bits_for_every_layer() -> None:
    student = UNetConfig(width=3, depth=2)
    known = sensitivity(student)
    plain = MixedPrecision(weight_bits=4, activation_bits=6).resolve(known, GROUP_OF)
    prepare(student.build(5), plain)
    assert set(plain.layers) == set(known.weights)
    shifted = MixedPrecision(weight_bits=4, activation_bits=6, encoder=1, decoder=-1).resolve(
        known, GROUP_OF
    )
    for name, bits in plain.layers.items():
        other = shifted.layers[name].weight_bits
        if name.startswith("encoder."):
            assert other > bits.weight_bits or other == CHOICES[-1]
        elif name == "classifier":
            assert other == bits.weight_bits
        else:
            assert other < bits.weight_bits or other == CHOICES[0]
        assert shifted.layers[name].activation_bits == bits.activation_bits


def test_a_student_that_was_not_measured_gets_the_fewest_bits() -> None:
    names = quantizable_names(UNetConfig(width=3, depth=2).build(5))
    plain = MixedPrecision(weight_bits=5.7, activation_bits=5.2).resolve(
        uniform_minimum_sensitivity(names), GROUP_OF
    )
    assert {bits.weight_bits for bits in plain.layers.values()} == {2}
    assert set(plain.layers) == set(names)


def test_only_a_study_resolves_an_allocation() -> None:
    config = TrialConfig(recipe=Qat(quantizer=MixedPrecision()))
    assert config.needs_sensitivity
    with pytest.raises(ValueError, match="must name bits to train with, but got an allocation"):
        config.quantizer  # noqa: B018
    with pytest.raises(ValidationError):
        MixedPrecision(weight_bits=1)
