"""What is made for a cluster file, and what is found in it, on a simulated AWS."""

import copy
import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

from search import cluster
from search.cloud.aws_check import SPOT_SERVICE
from search.cloud.aws_prices import current_prices, on_demand_prices, write_prices
from search.cloud.aws_setup import check_range
from search.cloud.cluster_file import PLACEHOLDER, read_cluster_file

pytestmark = pytest.mark.slow  # reading what AWS offers takes seconds for each test

ROOT = Path(__file__).parents[3]
REGION, MINE = "us-west-2", "203.0.113.7/32"
SPOT = "$1e-05 an hour"
"""The price that the simulation knows."""


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A simulated account and a home folder without a token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.chdir(ROOT)
    with mock_aws():
        yield boto3.Session(region_name=REGION)


@pytest.fixture
def image(aws: Any) -> str:
    """An image of the simulated account."""
    return str(aws.client("ec2").describe_images()["Images"][0]["ImageId"])


@pytest.fixture
def ready(aws: Any, image: str, tmp_path: Path) -> Path:
    """The file of the project with everything filled in."""
    out = tmp_path / "cluster.mine.yaml"
    argv = ["prepare", "cluster.yaml", "--ssh-from", MINE, "--image", image, "--out", str(out)]
    assert cluster.main(argv) == 0
    return out


def checked(file: Path, capsys: pytest.CaptureFixture[str], status: int) -> list[str]:
    """The lines of a check."""
    capsys.readouterr()
    assert cluster.main(["check", str(file)]) == status
    return capsys.readouterr().out.splitlines()


def test_what_is_made_is_ready(
    ready: Path, aws: Any, image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = capsys.readouterr().out
    content = yaml.safe_load(ready.read_text())
    assert not PLACEHOLDER.search(ready.read_text())
    ec2, efs, iam = (aws.client(name) for name in ("ec2", "efs", "iam"))

    (group,) = ec2.describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["paretoseg"]}]
    )["SecurityGroups"]
    ssh, *others = sorted(group["IpPermissions"], key=lambda rule: -rule.get("FromPort", 0))
    assert (ssh["FromPort"], ssh["ToPort"]) == (22, 22)
    assert [each["CidrIp"] for each in ssh["IpRanges"]] == [MINE]
    (own,) = others
    assert not own["IpRanges"]
    assert [pair["GroupId"] for pair in own["UserIdGroupPairs"]] == [group["GroupId"]]

    (file_system,) = efs.describe_file_systems()["FileSystems"]
    assert file_system["Encrypted"]
    assert f"{file_system['FileSystemId']}.efs.{REGION}.amazonaws.com" in ready.read_text()
    targets = efs.describe_mount_targets(FileSystemId=file_system["FileSystemId"])["MountTargets"]
    types = content["available_node_types"]
    for node_type in types.values():
        config = node_type["node_config"]
        assert set(config["SubnetIds"]) == {target["SubnetId"] for target in targets}
        assert config["SecurityGroupIds"] == [group["GroupId"]]
        assert config["ImageId"] == image
    labels = {name: each.get("labels") for name, each in types.items()}
    spot = {"price-per-hour": "1e-05"}
    unknown = {"price-per-hour": "unknown"}  # the simulation has no price list
    assert labels == {"head": None, "spot": spot, "spot-large": spot, "on-demand": unknown}
    profile = types["head"]["node_config"]["IamInstanceProfile"]["Name"]
    found = iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]
    assert [role["RoleName"] for role in found["Roles"]] == [profile]
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64
    assert token.read_text() not in said

    lines = checked(ready, capsys, 0)
    spot = [f"spot: g6.2xlarge, spot, {SPOT}", f"spot-large: g6.4xlarge, spot, {SPOT}"]
    assert lines[1:3] == spot
    assert lines[0].startswith("head: m6i.xlarge, on demand, price not known (")
    assert lines[-1] == f"{ready} is ready; at most 4 workers"


def test_a_second_call_finds_what_the_first_made(
    ready: Path, aws: Any, image: str, tmp_path: Path
) -> None:
    before, token = ready.read_text(), (tmp_path / ".ray" / "auth_token").read_text()
    other = "198.51.100.1/32"
    out = tmp_path / "again.yaml"
    argv = ["prepare", "cluster.yaml", "--ssh-from", other, "--image", image, "--out"]
    assert cluster.main([*argv, str(out)]) == 0
    assert out.read_text() == before
    ready.write_text(before.replace("max_workers: 4", "max_workers: 9"))
    assert cluster.main([*argv, str(ready)]) == 0
    assert "max_workers: 9" in ready.read_text()  # what a person wrote is kept
    (group,) = aws.client("ec2").describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["paretoseg"]}]
    )["SecurityGroups"]
    ranges = [each["CidrIp"] for rule in group["IpPermissions"] for each in rule["IpRanges"]]
    assert ranges == [other]
    assert (tmp_path / ".ray" / "auth_token").read_text() == token
    assert len(aws.client("efs").describe_file_systems()["FileSystems"]) == 1


def test_what_a_call_that_failed_left_is_completed(
    aws: Any, image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    iam = aws.client("iam")
    iam.create_role(RoleName=f"paretoseg-head-{REGION}", AssumeRolePolicyDocument="{}")
    out = tmp_path / "cluster.mine.yaml"
    argv = ["prepare", "cluster.yaml", "--ssh-from", MINE, "--image", image, "--out", str(out)]
    assert cluster.main(argv) == 0
    assert "is ready" in checked(out, capsys, 0)[-1]


def set_in_all(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Sets a value for all node types."""

    def change(content: dict[str, Any]) -> None:
        for node_type in content["available_node_types"].values():
            node_type["node_config"][key] = value

    return change


def set_in_head(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Sets, or deletes, a value for the head."""

    def change(content: dict[str, Any]) -> None:
        config = content["available_node_types"]["head"]["node_config"]
        if value is None:
            del config[key]
        else:
            config[key] = value

    return change


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "image": (set_in_all("ImageId", "ami-00000000"), "ImageId: ami-00000000 must be an image in"),
    "group": (
        set_in_all("SecurityGroupIds", ["sg-00000000"]),
        "SecurityGroupIds: sg-00000000 must be in us-west-2, but is not there",
    ),
    "no group": (set_in_head("SecurityGroupIds", None), "type head has none: Ray would open SSH"),
    "subnet": (
        set_in_all("SubnetIds", ["subnet-00000000"]),
        "SubnetIds: subnet-00000000 must be in us-west-2, but is not there",
    ),
    "no subnet": (set_in_head("SubnetIds", None), "type head has none: its nodes could start in"),
    "instance": (
        set_in_head("InstanceType", "m99.huge"),
        "InstanceType: m99.huge of type head is not in us-west-2",
    ),
    "profile": (
        set_in_head("IamInstanceProfile", {"Name": "nobody"}),
        "IamInstanceProfile: nobody must be one of the account's, but is not there",
    ),
    "no profile": (set_in_head("IamInstanceProfile", None), "the head has none, and Ray would"),
}


def test_each_planted_fault_is_one_line(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = ready.read_text()
    for change, expected in FAULTS.values():
        content = yaml.safe_load(text)
        change(content)
        ready.write_text(yaml.safe_dump(content))
        (line,) = checked(ready, capsys, 1)
        assert expected in line


def test_faults_of_the_account_are_found(
    ready: Path, aws: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    ec2, efs = aws.client("ec2"), aws.client("efs")
    file = read_cluster_file(ready)
    (group,) = file.values("SecurityGroupIds")
    (rules,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rules["IpPermissions"])
    everybody = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    ec2.authorize_security_group_ingress(
        GroupId=group, IpPermissions=[{**everybody, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    )
    targets = efs.describe_mount_targets(FileSystemId=file.file_system)["MountTargets"]
    efs.delete_mount_target(MountTargetId=targets[0]["MountTargetId"])
    zone, subnet = targets[0]["AvailabilityZoneName"], targets[0]["SubnetId"]
    assert checked(ready, capsys, 1) == [
        *(
            f"SecurityGroupIds: a group of type {name} must let in its own members, or no node "
            "joins"
            for name in file.node_configs
        ),
        f"SecurityGroupIds: {group} lets in 0.0.0.0/0 on ports 22 to 22",
        f"file system: {file.file_system} has no mount target in {zone}, of {subnet}",
    ]
    iam = aws.client("iam")
    (of_spot,) = iam.list_roles(PathPrefix=f"/aws-service-role/{SPOT_SERVICE}/")["Roles"]
    iam.delete_service_linked_role(RoleName=of_spot["RoleName"])
    for target in targets[1:]:
        efs.delete_mount_target(MountTargetId=target["MountTargetId"])
    efs.delete_file_system(FileSystemId=file.file_system)
    *_, gone, role = checked(ready, capsys, 1)
    assert gone == f"file system: {file.file_system} must be in us-west-2, but is not there"
    assert role.startswith(
        "spot: the account must have the role of spot instances, which `aws iam "
    )


def test_the_file_of_the_project_has_placeholders_and_no_token_yet(
    aws: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = checked(ROOT / "cluster.yaml", capsys, 1)
    text = (ROOT / "cluster.yaml").read_text().splitlines()
    named = [line for line in lines if "is a placeholder" in line]
    placeholders = ("PROFILE-EDIT", "ami-EDIT", "sg-EDIT", "subnet-EDIT", "fs-EDIT")
    assert len(named) == len(placeholders)
    for placeholder, line in zip(placeholders, named, strict=True):
        number = int(line.split()[1].rstrip(":"))
        assert line.startswith(f"line {number}: {placeholder} is a placeholder; ")
        assert placeholder in text[number - 1]
    (token,) = [line for line in lines if line.startswith("file_mounts")]
    assert token == (
        "file_mounts: ~/.ray/auth_token, for ~/.ray/auth_token, does not exist: "
        "`ray get-auth-token --generate` makes it"
    )


def test_a_token_that_others_can_read_is_found(
    ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".ray" / "auth_token").chmod(0o644)
    (line,) = checked(ready, capsys, 1)
    assert line.endswith("must be readable by its owner alone: chmod 600 ~/.ray/auth_token")


def test_without_credentials_there_is_one_line(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from botocore.exceptions import NoCredentialsError

    class Session:
        def client(self, *given: object, **named: object) -> None:
            raise NoCredentialsError

    monkeypatch.setattr(cluster, "open_session", Session)
    (line,) = checked(ready, capsys, 1)
    assert line.startswith("credentials: AWS refuses them, or there are none: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("here", "must be a range of addresses, as 203.0.113.7/32, but"),
        ("0.0.0.0/0", "must not be the whole Internet"),
        ("2001:db8::/32", "must be a range of version 4"),
    ],
)
def test_ssh_is_not_opened_to_everybody(
    text: str, words: str, aws: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster.main(["prepare", "cluster.yaml", "--ssh-from", text]) == 2
    errors = capsys.readouterr().err
    assert f"error: --ssh-from {words}" in errors
    assert check_range("203.0.113.0/24") == "203.0.113.0/24"
    assert not aws.client("efs").describe_file_systems()["FileSystems"]


def test_what_ray_lets_out_may_be_left_out(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load(ready.read_text())
    del content["max_workers"]
    content["file_mounts"] = None
    ready.write_text(yaml.safe_dump(content))
    assert checked(ready, capsys, 0)[-1].endswith("at most 2 workers")
    ready.write_text(ready.read_text().replace(f".efs.{REGION}.", ".efs.eu-west-1."))
    (line, *_) = checked(ready, capsys, 1)
    assert line.endswith("must be in us-west-2, but is mounted from eu-west-1")


def test_prices_on_demand_are_those_of_the_list() -> None:
    dimension = {"pricePerUnit": {"USD": "0.1920000000"}}
    free = {"pricePerUnit": {"USD": "0.0000000000"}}
    terms = {"OnDemand": {"a": {"priceDimensions": {"b": dimension, "c": free}}}}
    assert list(on_demand_prices({"terms": terms})) == [0.192]

    class Prices:
        def get_products(self, **asked: Any) -> dict[str, list[str]]:
            fields = {each["Field"]: each["Value"] for each in asked["Filters"]}
            assert (fields["instanceType"], fields["regionCode"]) == ("m6i.xlarge", REGION)
            return {"PriceList": [json.dumps({"terms": terms})]}

    class Session:
        def client(self, service: str, region_name: str) -> Prices:
            assert (service, region_name) == ("pricing", "us-east-1")
            return Prices()

    found = current_prices(Session(), read_cluster_file(ROOT / "cluster.yaml"), "head", [])
    assert write_prices(found) == "$0.192 an hour"


def launched(content: dict[str, Any], name: str) -> dict[str, Any]:
    """The instance that Ray would start for a type of node, as AWS describes it."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME, TAG_RAY_USER_NODE_TYPE

    config = bootstrap_aws(copy.deepcopy(content))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    node_config = config["available_node_types"][name]["node_config"]
    tags = {
        TAG_RAY_CLUSTER_NAME: config["cluster_name"],
        TAG_RAY_USER_NODE_TYPE: name,
        "ray-node-kind": "head" if name == config["head_node_type"] else "worker",
        "ray-node-status": "uninitialized",
    }
    before = set(provider.non_terminated_nodes({}))
    provider.create_node(node_config, tags, 1)
    (new,) = set(provider.non_terminated_nodes({})) - before
    ec2 = boto3.client("ec2", region_name=REGION)
    (reservation,) = ec2.describe_instances(InstanceIds=[new])["Reservations"]
    instance: dict[str, Any] = reservation["Instances"][0]
    return instance


TYPES = {
    "head": ("m6i.xlarge", False),
    "spot": ("g6.2xlarge", True),
    "spot-large": ("g6.4xlarge", True),
    "on-demand": ("g6.2xlarge", False),
}
"""The instance type of each kind of node, and whether it is a spot instance."""


def test_what_ray_would_start(ready: Path, aws: Any, image: str) -> None:
    content = yaml.safe_load(ready.read_text())
    ec2 = aws.client("ec2")
    for name, (kind, is_spot) in TYPES.items():
        wanted = content["available_node_types"][name]["node_config"]
        started = launched(content, name)
        assert (started["InstanceType"], started["ImageId"]) == (kind, image)
        assert (started.get("InstanceLifecycle") == "spot") is is_spot
        assert started["SubnetId"] in wanted["SubnetIds"]
        assert [group["GroupName"] for group in started["SecurityGroups"]] == ["paretoseg"]
        tags = {tag["Key"]: tag["Value"] for tag in started["Tags"]}
        assert tags["ray-cluster-name"] == "paretoseg"
        assert tags["ray-user-node-type"] == name
        profile = started.get("IamInstanceProfile", {}).get("Arn", "")
        own = wanted["IamInstanceProfile"]["Name"] if name == "head" else ""
        assert profile.rpartition("/")[2] == own
        (volume,) = ec2.describe_volumes(
            Filters=[{"Name": "attachment.instance-id", "Values": [started["InstanceId"]]}]
        )["Volumes"]
        assert (volume["Size"], volume["Encrypted"]) == (150, True)
        (disk,) = started["BlockDeviceMappings"]
        assert disk["Ebs"]["DeleteOnTermination"]
        assert started["MetadataOptions"]["HttpTokens"] == "required"
    # nothing was made besides what `prepare` had made
    groups = ec2.describe_security_groups()["SecurityGroups"]
    assert sorted(group["GroupName"] for group in groups) == ["default", "paretoseg"]
