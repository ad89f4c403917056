"""Which cluster files are read, and what the head of one may do."""

import os
from pathlib import Path
from typing import Any

import pytest

from search import cluster
from search.cloud.aws_setup import head_policy
from search.cloud.cluster_file import read_cluster_file

ROOT = Path(__file__).parents[3]
REGION = "us-west-2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "but there is no"),
        ("a: [", "must be YAML, but"),
        ("[]", "must describe a cluster on AWS .* but has another structure"),
        ("provider: {type: aws}", "but lacks 'region'"),
        (
            "{provider: {type: gcp, region: x}, cluster_name: a, head_node_type: b, "
            "available_node_types: {b: {node_config: {InstanceType: c}}}}",
            "must have provider.type aws, which can be checked, but it is gcp",
        ),
    ],
)
def test_other_files_are_refused(text: str | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_cluster_file(file)


def test_the_head_may_start_and_end_nodes_of_its_own_cluster_only() -> None:
    file = read_cluster_file(ROOT / "cluster.yaml")
    instances, conditions = [f"arn:aws:ec2:{REGION}:*:instance/*"], {}
    for statement in head_policy(file)["Statement"]:
        for action in statement["Action"]:
            assert action.startswith("ec2:")
            assert not action.endswith(":*")
            if statement["Resource"] == instances:
                conditions[action] = statement["Condition"]["StringEquals"]
            else:
                assert instances[0] not in statement["Resource"]
    assert conditions == {
        "ec2:RunInstances": {
            "aws:RequestTag/ray-cluster-name": "paretoseg",
            "ec2:InstanceType": ["m6i.xlarge", "g6.2xlarge", "g6.4xlarge"],
        },
        "ec2:CreateTags": {"aws:ResourceTag/ray-cluster-name": "paretoseg"},
        "ec2:TerminateInstances": {"aws:ResourceTag/ray-cluster-name": "paretoseg"},
    }


def test_boto3_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    assert cluster.main(["check", os.devnull]) == 2
    assert "uv run --with boto3" in capsys.readouterr().err
