"""What an hour of a trial costs."""

from typing import Any

import pytest

from search.execution.prices import trial_price
from search.execution.resources import TrialResources

EIGHTH = TrialResources(cpus=1, gpus=0.125)
CORE = TrialResources(cpus=1, gpus=0)


def node(cpus: float, gpus: float = 0, price: str | None = None) -> dict[str, Any]:
    """A node as Ray describes it."""
    labels = {} if price is None else {"price-per-hour": price}
    return {"Resources": {"CPU": cpus, "GPU": gpus}, "Labels": labels}


def test_a_trial_has_its_share_of_a_node() -> None:
    assert trial_price(node(8, 1), EIGHTH, 0.8) == pytest.approx(0.1)
    assert trial_price(node(8, 1), CORE, 0.8) == pytest.approx(0.1)
    assert trial_price(node(8, 1), TrialResources(cpus=8, gpus=1), 0.8) == pytest.approx(0.8)
    assert trial_price(node(4), TrialResources(cpus=2, gpus=0), 0.3) == pytest.approx(0.15)


def test_a_node_has_a_price_of_its_own_unless_all_have_one() -> None:
    assert trial_price(node(16, 2, "1.6"), EIGHTH, None) == pytest.approx(0.1)
    assert trial_price(node(16, 2, "1.6"), EIGHTH, 3.2) == pytest.approx(0.2)


@pytest.mark.parametrize("label", [None, "", "free", "unknown", "0", "-1", "nan", "inf"])
def test_a_price_that_is_not_known(label: str | None) -> None:
    assert trial_price(node(8, 1, label), EIGHTH, None) is None


def test_a_trial_that_does_not_fit_has_no_price() -> None:
    assert trial_price(node(8), TrialResources(cpus=99, gpus=0), 1.0) is None
