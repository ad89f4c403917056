"""What an hour of a trial costs."""

from typing import Any

import pytest

from search.execution import prices
from search.execution.prices import trial_price
from search.execution.resources import TrialResources

EIGHTH = TrialResources(cpus=1, gpus=0.125)
CORE = TrialResources(cpus=1, gpus=0)


def node(cpus: float, gpus: float = 0, price: str | None = None) -> dict[str, Any]:
    labels = {} if price is None else {"price-per-hour": price}
    return {"Resources": {"CPU": cpus, "GPU": gpus}, "Labels": labels}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The nodes of a cluster, to be filled in."""
    nodes: list[dict[str, Any]] = []
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(prices, "living_nodes", lambda: nodes)
    return nodes


def test_a_trial_has_its_share_of_a_node(cluster: list[dict[str, Any]]) -> None:
    cluster += [node(0), node(8, 1)]
    assert trial_price(EIGHTH, 0.8) == pytest.approx(0.1)
    assert trial_price(CORE, 0.8) == pytest.approx(0.1)
    assert trial_price(TrialResources(cpus=8, gpus=1), 0.8) == pytest.approx(0.8)


def test_nodes_have_prices_of_their_own(cluster: list[dict[str, Any]]) -> None:
    cluster += [node(8, 1, "0.4"), node(16, 2, "1.6"), node(8, 1, "cheap"), node(64, 0, "3")]
    assert trial_price(EIGHTH, None) == pytest.approx((0.4 / 8 + 1.6 / 16) / 2)


@pytest.mark.parametrize("label", [None, "", "free", "0", "-1", "nan", "inf"])
def test_a_price_that_is_not_known(cluster: list[dict[str, Any]], label: str | None) -> None:
    cluster.append(node(8, 1, label))
    assert trial_price(EIGHTH, None) is None
    assert trial_price(TrialResources(cpus=99, gpus=0), 1.0) is None


def test_cores_of_this_machine_share_its_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "this_machine", lambda: Machine)
    assert trial_price(TrialResources(cpus=2, gpus=0), 0.3) == pytest.approx(0.15)
    assert trial_price(CORE, None) is None


class Machine:
    types = (prices.NodeType(cpus=4),)
