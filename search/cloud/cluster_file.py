"""A cluster file as `ray up` reads it, and what is wrong with it before a cloud is asked."""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PLACEHOLDER = re.compile(r"\b(?:ami|sg|subnet|fs)-EDIT\b|\bPROFILE-EDIT\b")
"""What stands in `cluster.yaml` for what each account has of its own."""
PRICE_PLACEHOLDER = "PRICE-EDIT"
"""What stands there for prices, without which a cluster works as well."""
FILE_SYSTEM = re.compile(r"\b(fs-[0-9a-f]+)\.efs\.([a-z0-9-]+)\.amazonaws\.com")
TOKEN = "~/.ray/auth_token"
"""The file with the token that Ray's nodes ask each other for."""


@dataclass(frozen=True)
class ClusterFile:
    """The content of a cluster file for AWS."""

    path: Path
    text: str
    content: Mapping[str, Any]

    @property
    def region(self) -> str:
        return str(self.content["provider"]["region"])

    @property
    def name(self) -> str:
        return str(self.content["cluster_name"])

    @property
    def node_configs(self) -> dict[str, Mapping[str, Any]]:
        """By the names of node types, what AWS is told of an instance; the head comes first."""
        types = self.content["available_node_types"]
        head = self.content["head_node_type"]
        ordered = {head: types[head], **types}
        return {name: each["node_config"] for name, each in ordered.items()}

    @property
    def unpriced_types(self) -> list[str]:
        """The node types of which a label is to say the price, in the order of the file."""
        types = self.content["available_node_types"]
        return [
            name for name, each in types.items() if PRICE_PLACEHOLDER in str(each.get("labels"))
        ]

    @property
    def instance_types(self) -> list[str]:
        """The instance types, each once; the head's comes first."""
        return list(dict.fromkeys(each["InstanceType"] for each in self.node_configs.values()))

    @property
    def wants_spot(self) -> bool:
        """Whether any node is to be a spot instance."""
        return any(market_of(config) == "spot" for config in self.node_configs.values())

    @property
    def max_workers(self) -> int:
        """The number of nodes beside the head; Ray's default where none is given."""
        return int(self.content.get("max_workers", 2))

    @property
    def file_system(self) -> str | None:
        """The EFS file system that nodes mount, if there is one."""
        found = FILE_SYSTEM.search(self.text)
        return found[1] if found else None

    def values(self, key: str) -> list[str]:
        """The ids under a key of all node types, each once."""
        named = (each.get(key, []) for each in self.node_configs.values())
        ids = [i for value in named for i in (value if isinstance(value, list) else [value])]
        return list(dict.fromkeys(ids))


def market_of(config: Mapping[str, Any]) -> str:
    """How an instance is paid for: "spot" or "on demand"."""
    return str(config.get("InstanceMarketOptions", {}).get("MarketType", "on demand"))


def read_cluster_file(path: Path) -> ClusterFile:
    """Reads a cluster file for AWS.

    Raises:
        ValueError: there is none, or it is no such file.
    """
    if not path.is_file():
        raise ValueError(f"FILE must be a cluster file, but there is no {path}")
    text = path.read_text()
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must be YAML, but {' '.join(str(error).split())}") from error
    try:
        file = ClusterFile(path, text, content)
        found = file.region, file.name, file.node_configs, file.instance_types
        assert all(found)
    except (AssertionError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must describe a cluster on AWS with provider.region, cluster_name, "
            f"head_node_type, available_node_types and InstanceType, but {describe(error)}"
        ) from error
    if content["provider"].get("type") != "aws":
        raise ValueError(
            f"{path} must have provider.type aws, which can be checked, but it is "
            f"{content['provider'].get('type')}"
        )
    return file


def describe(error: Exception) -> str:
    """What is missing."""
    return f"lacks {error}" if isinstance(error, KeyError) else "has another structure"


def local_findings(file: ClusterFile) -> Iterator[str]:
    """What is wrong with the file and with this machine, a line each."""
    for number, line in enumerate(file.text.splitlines(), start=1):
        for placeholder in PLACEHOLDER.findall(line.split(" #")[0]):
            yield (
                f"line {number}: {placeholder} is a placeholder; "
                f"`python -m search.cluster prepare` makes what it stands for, and fills it in"
            )
    found = FILE_SYSTEM.search(file.text)
    if found and found[2] != file.region:
        yield f"file system: {found[1]} must be in {file.region}, but is mounted from {found[2]}"
    for remote, local in (file.content.get("file_mounts") or {}).items():
        path = Path(os.path.expanduser(local))
        if not path.exists():
            remedy = ": `ray get-auth-token --generate` makes it" if local == TOKEN else ""
            yield f"file_mounts: {local}, for {remote}, does not exist{remedy}"
        elif local == TOKEN and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield f"file_mounts: {local} must be readable by its owner alone: chmod 600 {local}"
