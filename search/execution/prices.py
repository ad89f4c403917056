"""What an hour of a trial costs: its share of the price of the node that runs it."""

from typing import Any

from search.execution.cluster import kind_of
from search.execution.resources import NodeType, TrialResources

PRICE_LABEL = "price-per-hour"
"""Ray's label of a node that says what an hour of it costs, as a number in any currency."""


def trial_price(
    node: dict[str, Any], share: TrialResources, node_price: float | None
) -> float | None:
    """The price of an hour of a trial; None: not known.

    Args:
        node: as Ray describes it.
        share: the resources of the trial, of which so many share the price as fit on the node.
        node_price: of an hour of any node; None: it has its own, or none, as a label.
    """
    price = read_price(node["Labels"].get(PRICE_LABEL)) if node_price is None else node_price
    num_fitting = NodeType(*kind_of(node["Resources"])).num_fitting(share)
    return price / num_fitting if price is not None and num_fitting else None


def read_price(label: str | None) -> float | None:
    """The number in a label; None where there is no label, or no number in it."""
    try:
        price = float(label or "")
    except ValueError:
        return None
    return price if 0 < price < float("inf") else None
