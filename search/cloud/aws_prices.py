"""What an hour of an instance costs, in dollars, as AWS says now."""

import json
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from search.cloud.cluster_file import ClusterFile, market_of

PRICE_LIST_REGION = "us-east-1"
"""Where AWS serves the list of prices on demand of all regions."""


def current_prices(
    session: Any, file: ClusterFile, node_type: str, zones: Collection[str]
) -> list[float]:
    """The prices of a node with Linux, for spot that of each zone; none: not known."""
    config, region = file.node_configs[node_type], file.region
    instance = config["InstanceType"]
    if market_of(config) == "spot":
        return spot_prices(session.client("ec2", region_name=region), instance, zones)
    wanted = {
        "instanceType": instance,
        "regionCode": region,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
    }
    filters = [
        {"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()
    ]
    listed = session.client("pricing", region_name=PRICE_LIST_REGION).get_products(
        ServiceCode="AmazonEC2", Filters=filters
    )["PriceList"]
    prices = [price for product in listed for price in on_demand_prices(json.loads(product))]
    return sorted(prices)[:1]


def spot_prices(ec2: Any, instance: str, zones: Collection[str]) -> list[float]:
    """The spot prices of an instance type in some zones, or in all where none is named."""
    history = ec2.describe_spot_price_history(
        InstanceTypes=[instance],
        ProductDescriptions=["Linux/UNIX", "Linux/UNIX (Amazon VPC)"],
        StartTime=datetime.now(UTC),
    )["SpotPriceHistory"]
    return [
        float(each["SpotPrice"])
        for each in history
        if not zones or each["AvailabilityZone"] in zones
    ]


def on_demand_prices(product: Mapping[str, Any]) -> Iterator[float]:
    """The prices of an hour in an entry of AWS's list of prices."""
    for term in product["terms"].get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            if price := float(dimension["pricePerUnit"].get("USD", 0)):
                yield price


def write_prices(prices: Collection[float]) -> str:
    """Prices for people: one, or their range."""
    if not prices:
        return "price not known"
    low, high = min(prices), max(prices)
    span = f"${low:.4g}" if low == high else f"${low:.4g} to ${high:.4g}"
    return f"{span} an hour"
