"""A trial's row in a table."""

from dataclasses import replace

from factories import make_metrics
from front_factories import CLASSES

from search.core.record import Record, total_cost
from trainables.config import TrialConfig
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import Qat


def test_what_was_sampled_and_resolved_to_others_has_columns_of_its_own() -> None:
    config = TrialConfig(recipe=Qat(quantizer=Lsq(weight_bits=4, activation_bits=4)))
    params = {"recipe.quantizer.weight_bits": 4.5, "recipe.quantizer.activation_bits": 4}
    row = Record("0000", "RUNNING", "", config, None, params=params).row(CLASSES)
    assert row["recipe.quantizer.weight_bits"] == 4
    assert row["asked.recipe.quantizer.weight_bits"] == 4.5
    assert "asked.recipe.quantizer.activation_bits" not in row


def test_a_trial_costs_its_share_of_a_node() -> None:
    config = TrialConfig(recipe=Qat(start_epochs=3))
    metrics = make_metrics(0.5, 1000, device_seconds=1800).replace(start_seconds=7200)
    first = Record("0000", "COMPLETE", "", config, metrics, price_per_hour=0.5)
    other = TrialConfig(recipe=Qat(start_epochs=3, quantizer=Lsq(weight_bits=2)))
    second = replace(first, trial_id="0001", config=other, price_per_hour=1.0)
    unknown = replace(first, price_per_hour=None)
    assert (first.cost, second.cost, unknown.cost) == (0.25, 0.5, None)
    assert first.row(CLASSES)["cost"] == 0.25
    refused = replace(unknown, metrics=None)
    assert total_cost([first, second, refused]) == 0.25 + 0.5 + 2.0  # one start for both
    assert total_cost([first, unknown]) is None
    assert total_cost([refused]) is None
