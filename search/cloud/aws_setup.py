"""Makes what a cluster file needs of AWS: network rules, a narrow role, and a file system."""

import ipaddress
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from search.cloud.aws_check import SPOT_SERVICE, USABLE, offered_zones
from search.cloud.aws_prices import current_prices
from search.cloud.cluster_file import PRICE_PLACEHOLDER, ClusterFile

IMAGE_PARAMETER = (
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
)
"""Where AWS says which image has Ubuntu 22.04 and NVIDIA's driver."""
PURPOSE = "paretoseg: nodes of Ray clusters"
WAIT_S, LOOK_EVERY_S = 600.0, 5.0
"""Seconds until a file system must be usable, and between two looks."""


class AwsSetup:
    """Makes what is missing in the account, and finds again what an earlier call made.

    Args:
        file: a cluster file with placeholders.
        session: one of boto3.
        say: gets a line for each thing that is made or found.
    """

    def __init__(self, file: ClusterFile, session: Any, say: Callable[[str], None]) -> None:
        self.file, self.say = file, say
        self.session = session
        self.ec2 = self.client("ec2")
        self.tag = {"Key": "Name", "Value": file.name}

    def client(self, service: str) -> Any:
        return self.session.client(service, region_name=self.file.region)

    def prepare(self, ssh_from: str, image: str | None) -> str:
        """The text of the file with everything filled in.

        Args:
            ssh_from: the range of addresses, such as 203.0.113.7/32, that SSH is opened to.
            image: None: the newest one that AWS has for NVIDIA GPUs.

        Raises:
            ValueError: the region has no default network, or no zone with all instance types.
        """
        network, subnets = self.choose_subnets()
        group = self.make_group(network, ssh_from)
        file_system = self.make_file_system(subnets, group)
        values = {
            "ami-EDIT": image or self.find_image(),
            "sg-EDIT": group,
            "subnet-EDIT": ", ".join(subnets),
            "PROFILE-EDIT": self.make_profile(),
        }
        host = f"{file_system}.efs.{self.file.region}"
        text = re.sub(r"fs-EDIT\.efs\.[a-z0-9-]+", host, self.file.text)
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        for name in self.file.unpriced_types:
            text = text.replace(PRICE_PLACEHOLDER, self.find_price(name, set(subnets.values())), 1)
        return text

    def find_price(self, node_type: str, zones: set[str]) -> str:
        """What a node of a type costs for an hour, the mean of the zones; or "unknown"."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            prices = current_prices(self.session, self.file, node_type, zones)
        except (BotoCoreError, ClientError):
            prices = []
        return f"{sum(prices) / len(prices):.4g}" if prices else "unknown"

    def choose_subnets(self) -> tuple[str, dict[str, str]]:
        """The default network, and by subnet the zones where all instance types are offered."""
        filters = [{"Name": "is-default", "Values": ["true"]}]
        networks = self.ec2.describe_vpcs(Filters=filters)["Vpcs"]
        if not networks:
            raise ValueError(
                f"{self.file.region} must have a default network (VPC), but this account has none "
                "there: `aws ec2 create-default-vpc` makes it"
            )
        network = networks[0]["VpcId"]
        offered = offered_zones(self.ec2, self.file.instance_types)
        zones = set.intersection(*(offered.get(each, set()) for each in self.file.instance_types))
        of_network = [
            {"Name": "vpc-id", "Values": [network]},
            {"Name": "default-for-az", "Values": ["true"]},
        ]
        found = self.ec2.describe_subnets(Filters=of_network)["Subnets"]
        subnets = {
            each["SubnetId"]: each["AvailabilityZone"]
            for each in sorted(found, key=lambda each: str(each["AvailabilityZone"]))
            if each["AvailabilityZone"] in zones
        }
        if not subnets:
            raise ValueError(
                f"one zone of {self.file.region} must offer {', '.join(self.file.instance_types)}, "
                "but none offers all of them"
            )
        self.say(f"zones: {', '.join(subnets.values())}")
        return network, subnets

    def make_group(self, network: str, ssh_from: str) -> str:
        """A security group that lets in SSH from a range, and everything from itself."""
        filters = [
            {"Name": "group-name", "Values": [self.file.name]},
            {"Name": "vpc-id", "Values": [network]},
        ]
        found = self.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        if found:
            group = str(found[0]["GroupId"])
        else:
            group = str(
                self.ec2.create_security_group(
                    GroupName=self.file.name,
                    Description=PURPOSE,
                    VpcId=network,
                    TagSpecifications=[{"ResourceType": "security-group", "Tags": [self.tag]}],
                )["GroupId"]
            )
        own = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
        ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
        allowed = {**ssh, "IpRanges": [{"CidrIp": ssh_from, "Description": "SSH"}]}
        (rules,) = self.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
        others = [
            each["CidrIp"]
            for rule in rules["IpPermissions"]
            for each in rule["IpRanges"]
            if each["CidrIp"] != ssh_from and rule.get("FromPort") == 22
        ]
        if others:  # of an earlier call
            earlier = {**ssh, "IpRanges": [{"CidrIp": each} for each in others]}
            self.ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[earlier])
        for rule in (own, allowed):
            with existing_is_fine("InvalidPermission.Duplicate"):
                self.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        self.say(f"security group: {group}, SSH from {ssh_from} alone")
        return group

    def make_profile(self) -> str:
        """An instance profile whose role may start and end instances of this cluster only."""
        iam, name = self.client("iam"), f"{self.file.name}-head-{self.file.region}"
        trust = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "ec2.amazonaws.com"},
                    "Action": "sts:AssumeRole",
                }
            ],
        }
        with existing_is_fine("EntityAlreadyExists"):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))
        with existing_is_fine("EntityAlreadyExists"):
            iam.create_instance_profile(InstanceProfileName=name)
        with existing_is_fine("LimitExceeded"):  # a profile has one role
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        policy = json.dumps(head_policy(self.file))
        iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=policy)
        if self.file.wants_spot:  # made once for each account, which the head may not do
            with existing_is_fine("InvalidInput", "EntityAlreadyExists"):
                iam.create_service_linked_role(AWSServiceName=SPOT_SERVICE)
        self.say(f"role of the head: {name}")
        return name

    def make_file_system(self, subnets: dict[str, str], group: str) -> str:
        """An encrypted EFS file system that can be mounted in each of the subnets."""
        efs = self.client("efs")
        found = efs.describe_file_systems(CreationToken=self.file.name)["FileSystems"]
        if found:
            file_system = str(found[0]["FileSystemId"])
        else:
            made = efs.create_file_system(
                CreationToken=self.file.name, Encrypted=True, Tags=[self.tag]
            )
            file_system = str(made["FileSystemId"])

        of_it = {"FileSystemId": file_system}
        wait_for(lambda: efs.describe_file_systems(**of_it)["FileSystems"])
        targets = efs.describe_mount_targets(**of_it)["MountTargets"]
        reached = {each["SubnetId"] for each in targets}
        for subnet in subnets:
            if subnet not in reached:
                efs.create_mount_target(**of_it, SubnetId=subnet, SecurityGroups=[group])
        wait_for(lambda: efs.describe_mount_targets(**of_it)["MountTargets"])
        self.say(f"file system: {file_system}, encrypted; it stays until you delete it")
        return file_system

    def find_image(self) -> str:
        """The newest image with NVIDIA's driver."""
        parameter = self.client("ssm").get_parameter(Name=IMAGE_PARAMETER)["Parameter"]
        self.say(f"image: {parameter['Value']}")
        return str(parameter["Value"])


def head_policy(file: ClusterFile) -> dict[str, Any]:
    """What the head may do: start the file's instance types for its cluster, and end those."""
    ec2 = f"arn:aws:ec2:{file.region}:*"
    parts = ("subnet", "security-group", "network-interface", "volume", "key-pair")
    used = [f"{ec2}:{part}/*" for part in (*parts, "spot-instances-request")]
    own = {"aws:RequestTag/ray-cluster-name": file.name}

    def allow(
        actions: list[str], resources: list[str], condition: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        rule = {"Effect": "Allow", "Action": actions, "Resource": resources}
        return {**rule, "Condition": {"StringEquals": condition}} if condition else rule

    instances = [f"{ec2}:instance/*"]
    of_cluster = {"aws:ResourceTag/ray-cluster-name": file.name}
    types = {"ec2:InstanceType": file.instance_types}
    return {
        "Version": "2012-10-17",
        "Statement": [
            allow(["ec2:Describe*"], ["*"], {"aws:RequestedRegion": file.region}),
            allow(["ec2:RunInstances"], instances, {**own, **types}),
            allow(["ec2:RunInstances"], [f"arn:aws:ec2:{file.region}::image/*", *used]),
            allow(["ec2:CreateTags"], instances, {"ec2:CreateAction": "RunInstances"}),
            allow(["ec2:CreateTags", "ec2:TerminateInstances"], instances, of_cluster),
        ],
    }


@contextmanager
def existing_is_fine(*codes: str) -> Iterator[None]:
    """Passes over the errors by which AWS says that something is there already."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] not in codes:
            raise


def wait_for(find: Callable[[], list[dict[str, Any]]]) -> None:
    """Waits until all that is found can be used.

    Raises:
        OSError: it takes too long.
    """
    deadline = time.monotonic() + WAIT_S
    while any(each["LifeCycleState"] != USABLE for each in find()):
        if time.monotonic() > deadline:
            raise OSError(f"the file system must be usable within {WAIT_S:g} s, but is not")
        time.sleep(LOOK_EVERY_S)


def check_range(text: str) -> str:
    """The range of addresses in a text.

    Raises:
        ValueError: it is none, or opens SSH to everybody.
    """
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"--ssh-from must be a range of addresses, as 203.0.113.7/32, but {error}"
        ) from error
    if not found.prefixlen:
        raise ValueError(f"--ssh-from must not be the whole Internet, but got {text}")
    if found.version != 4:
        raise ValueError(f"--ssh-from must be a range of version 4, but got {text}")
    return str(found)
