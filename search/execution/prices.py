"""What an hour of a trial costs: its share of the price of a node."""

from collections.abc import Iterator

from search.execution.cluster import kind_of, living_nodes
from search.execution.cluster_address import on_cluster
from search.execution.resources import NodeType, TrialResources, this_machine

PRICE_LABEL = "price-per-hour"
"""Ray's label of a node that says what an hour of it costs, as a number in any currency."""


def trial_price(share: TrialResources, node_price: float | None) -> float | None:
    """The price of an hour of a trial, the mean over the nodes that could run it.

    Args:
        share: the resources of the trial.
        node_price: of an hour of any node; None: each node has its own, or none, as a label.
    """
    prices = [
        price / num_fitting
        for node, label in priced_nodes()
        if (price := label if node_price is None else node_price) is not None
        and (num_fitting := node.num_fitting(share))
    ]
    return sum(prices) / len(prices) if prices else None


def priced_nodes() -> Iterator[tuple[NodeType, float | None]]:
    """The nodes, each with the price of its label, if it has one."""
    if not on_cluster():
        for kind in this_machine().types:
            yield kind, None
        return
    for node in living_nodes():
        label = node["Labels"].get(PRICE_LABEL)
        yield NodeType(*kind_of(node["Resources"])), read_price(label)


def read_price(label: str | None) -> float | None:
    """The number in a label; None where there is no label, or no number in it."""
    try:
        price = float(label or "")
    except ValueError:
        return None
    return price if 0 < price < float("inf") else None
