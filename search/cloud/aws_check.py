"""What AWS lacks for a cluster file, and what the cluster costs, asked before anything runs."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from search.cloud.aws_prices import current_prices, write_prices
from search.cloud.cluster_file import ClusterFile, market_of

ANYWHERE = {"0.0.0.0/0", "::/0"}
SPOT_SERVICE = "spot.amazonaws.com"
USABLE = "available"
"""The state of images, file systems and mount targets that can be used."""


class AwsCheck:
    """Compares a cluster file with what an account has; `session` is one of boto3."""

    def __init__(self, file: ClusterFile, session: Any) -> None:
        self.file, self.session = file, session

    def client(self, service: str, region: str | None = None) -> Any:
        return self.session.client(service, region_name=region or self.file.region)

    @cached_property
    def ec2(self) -> Any:
        return self.client("ec2")

    def findings(self) -> Iterator[str]:
        """What is wrong, a line each; the first is about credentials, and then the only one."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.client("sts").get_caller_identity()
        except (BotoCoreError, ClientError) as error:
            yield f"credentials: AWS refuses them, or there are none: {error}"
            return
        for check in (
            self.images,
            self.groups,
            self.subnets,
            self.offerings,
            self.file_system,
            self.profiles,
            self.spot_role,
        ):
            try:
                yield from check()
            except (BotoCoreError, ClientError) as error:
                yield f"{check.__name__}: AWS could not be asked: {error}"

    def existing(
        self, key: str, find: Callable[..., Any], noun: str, results: str
    ) -> dict[str, Any]:
        """What EC2 has of the ids under a key of the file, by id; `noun` is what they are of."""
        ids = self.file.values(key)
        if not ids:
            return {}
        found = find(Filters=[{"Name": f"{noun}-id", "Values": ids}])[results]
        return {each[f"{noun.capitalize()}Id"]: each for each in found}

    def images(self) -> Iterator[str]:
        """Images that do not exist in the region, or cannot be used."""
        found = self.existing("ImageId", self.ec2.describe_images, "image", "Images")
        for image in self.file.values("ImageId"):
            state = found[image]["State"] if image in found else "not there"
            if state != USABLE:
                yield f"ImageId: {image} must be an image in {self.file.region}, but is {state}"

    @cached_property
    def known_groups(self) -> dict[str, Any]:
        find = self.ec2.describe_security_groups
        return self.existing("SecurityGroupIds", find, "group", "SecurityGroups")

    def groups(self) -> Iterator[str]:
        """Security groups that do not exist, that let in everybody, or keep nodes apart."""
        for name, config in self.file.node_configs.items():
            of_type = config.get("SecurityGroupIds", [])
            known = [self.known_groups[group] for group in of_type if group in self.known_groups]
            if not of_type:
                yield f"SecurityGroupIds: type {name} has none: Ray would open SSH to everybody"
            elif known and not any(map(admits_itself, known)):
                yield (
                    f"SecurityGroupIds: a group of type {name} must let in its own members, or no "
                    "node joins"
                )
        for group in self.file.values("SecurityGroupIds"):
            if group not in self.known_groups:
                yield f"SecurityGroupIds: {group} must be in {self.file.region}, but is not there"
                continue
            rules = self.known_groups[group]["IpPermissions"]
            for rule in rules:
                ranges = {each["CidrIp"] for each in rule["IpRanges"]}
                ranges |= {each["CidrIpv6"] for each in rule["Ipv6Ranges"]}
                if open_to := ranges & ANYWHERE:
                    ports = f"ports {rule.get('FromPort', 'all')} to {rule.get('ToPort', 'all')}"
                    yield f"SecurityGroupIds: {group} lets in {min(open_to)} on {ports}"

    @cached_property
    def known_subnets(self) -> dict[str, Any]:
        return self.existing("SubnetIds", self.ec2.describe_subnets, "subnet", "Subnets")

    @property
    def zones(self) -> dict[str, str]:
        """The zones of the subnets of the file, by subnet."""
        return {name: each["AvailabilityZone"] for name, each in self.known_subnets.items()}

    def subnets(self) -> Iterator[str]:
        """Subnets that do not exist, or are in another network than the groups."""
        for name, config in self.file.node_configs.items():
            if not config.get("SubnetIds"):
                yield f"SubnetIds: type {name} has none: its nodes could start in any zone"
        networks = {group["VpcId"] for group in self.known_groups.values()}
        for subnet in self.file.values("SubnetIds"):
            if subnet not in self.known_subnets:
                yield f"SubnetIds: {subnet} must be in {self.file.region}, but is not there"
            elif networks and self.known_subnets[subnet]["VpcId"] not in networks:
                yield f"SubnetIds: {subnet} must be in the network of the security groups"

    def offerings(self) -> Iterator[str]:
        """Instance types that are not offered in a zone of a subnet of their nodes."""
        offered = offered_zones(self.ec2, self.file.instance_types)
        for name, config in self.file.node_configs.items():
            instance = config["InstanceType"]
            if instance not in offered:
                yield f"InstanceType: {instance} of type {name} is not in {self.file.region}"
                continue
            for subnet in config.get("SubnetIds", []):
                zone = self.zones.get(subnet)
                if zone and zone not in offered[instance]:
                    yield f"InstanceType: {instance} of type {name} is not offered in {zone}"

    def file_system(self) -> Iterator[str]:
        """A file system that does not exist, or cannot be mounted in a zone of the nodes."""
        efs, file_system = self.client("efs"), self.file.file_system
        if file_system is None:
            return
        known = {each["FileSystemId"]: each for each in efs.describe_file_systems()["FileSystems"]}
        if file_system not in known:
            yield f"file system: {file_system} must be in {self.file.region}, but is not there"
            return
        targets = efs.describe_mount_targets(FileSystemId=file_system)["MountTargets"]
        reached = {each["AvailabilityZoneName"] for each in targets}
        for subnet, zone in self.zones.items():
            if zone not in reached:
                yield f"file system: {file_system} has no mount target in {zone}, of {subnet}"

    def profiles(self) -> Iterator[str]:
        """An instance profile of the head that does not exist; without one Ray makes a wide one."""
        from botocore.exceptions import ClientError

        head, *_ = self.file.node_configs.values()
        profile = head.get("IamInstanceProfile")
        if not profile:
            yield (
                "IamInstanceProfile: the head has none, and Ray would give it full access to EC2 "
                "and S3"
            )
            return
        name = profile.get("Name") or profile["Arn"].rpartition("/")[2]
        try:
            found = self.client("iam").get_instance_profile(InstanceProfileName=name)
        except ClientError:
            yield f"IamInstanceProfile: {name} must be one of the account's, but is not there"
            return
        if not found["InstanceProfile"]["Roles"]:
            yield f"IamInstanceProfile: {name} must have a role"

    def spot_role(self) -> Iterator[str]:
        """The role that AWS itself needs for spot instances, which an account gets once."""
        path = f"/aws-service-role/{SPOT_SERVICE}/"
        if self.file.wants_spot and not self.client("iam").list_roles(PathPrefix=path)["Roles"]:
            yield (
                "spot: the account must have the role of spot instances, which `aws iam "
                f"create-service-linked-role --aws-service-name {SPOT_SERVICE}` makes"
            )

    def prices(self) -> Iterator[str]:
        """What a node of each type costs by the hour, as AWS says now, a line each."""
        from botocore.exceptions import BotoCoreError, ClientError

        for name, config in self.file.node_configs.items():
            instance, market = config["InstanceType"], market_of(config)
            try:
                zones = set(self.zones.values())
                price = write_prices(current_prices(self.session, self.file, name, zones))
            except (BotoCoreError, ClientError) as error:
                price = f"price not known ({error})"
            yield f"{name}: {instance}, {market}, {price}"


def admits_itself(group: Mapping[str, Any]) -> bool:
    """Whether a security group lets in its own members."""
    pairs = (pair for rule in group["IpPermissions"] for pair in rule["UserIdGroupPairs"])
    return any(pair["GroupId"] == group["GroupId"] for pair in pairs)


def offered_zones(ec2: Any, instance_types: list[str]) -> dict[str, set[str]]:
    """The zones of the region in which each instance type is offered."""
    pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": instance_types}],
    )
    zones: dict[str, set[str]] = {}
    for page in pages:
        for offer in page["InstanceTypeOfferings"]:
            zones.setdefault(offer["InstanceType"], set()).add(offer["Location"])
    return zones
