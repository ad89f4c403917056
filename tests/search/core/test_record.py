"""A trial's row in a table."""

from front_factories import CLASSES

from search.core.record import Record
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
