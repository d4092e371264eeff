"""aws.yaml against a stand-in for EC2 and IAM: the commands of the README, then what `ray up` does before any ssh."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import xform_name
from ray.autoscaler._private.aws import node_provider
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    TAG_RAY_LAUNCH_CONFIG,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from tests.cluster_files.files import ROOT, load, readme_commands
from tests.conftest import point_to
from tests.servers.s3 import moto


@dataclass
class Account:
    """An account in which the README was followed, and the cluster file as `ray up` completes it there."""

    config: dict[str, Any]
    home: Path

    def client(self, service: str) -> Any:
        return boto3.client(service, region_name=self.config["provider"]["region"])


def follow(words: list[str]) -> None:
    """Do what `aws SERVICE OPERATION --option value ...` does."""
    _, service, operation, *options = words
    client = boto3.client(service)
    shape = client.meta.service_model.operation_model(
        {xform_name(name, "-"): name for name in client.meta.service_model.operation_names}[operation]
    ).input_shape
    names = {f"--{xform_name(member, '-')}": member for member in shape.members}
    given = dict(zip(options[::2], options[1::2], strict=True))
    read = {key: (ROOT / v[7:]).read_text() if v.startswith("file://") else v for key, v in given.items()}
    getattr(client, operation.replace("-", "_"))(**{names[key]: value for key, value in read.items()})


def described(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What EC2 says of the types of instances that a cluster file names."""
    names = sorted({each["node_config"]["InstanceType"] for each in config["available_node_types"].values()})
    client = boto3.client("ec2", region_name=config["provider"]["region"])
    return {each["InstanceType"]: each for each in client.describe_instance_types(InstanceTypes=names)["InstanceTypes"]}


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    patch, home = pytest.MonkeyPatch(), tmp_path_factory.mktemp("home")
    with moto() as server:
        point_to(server, patch)
        patch.setenv("HOME", str(home))  # where Ray puts the private key that it makes
        try:
            for words in readme_commands("aws iam"):
                follow(words)
            config = load("aws.yaml")
            # Ray would list all 1,400 types of instances, which takes the stand-in 15 s, to fill in missing resources.
            types = described(config)
            patch.setattr(node_provider, "list_ec2_instances", lambda region, max_retries=None: list(types.values()))
            yield Account(_bootstrap_config(config, no_config_cache=True), home)
        finally:
            resource_cache.cache_clear()
            client_cache.cache_clear()
            patch.undo()


def launch(account: Account, kind: str) -> tuple[Any, dict[str, Any]]:
    """Start one node of a type as `ray up` and the autoscaler do; the provider, and what EC2 says of the node."""
    config, head = account.config, kind == account.config["head_node_type"]
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    node = copy.deepcopy(config["available_node_types"][kind]["node_config"])
    if head:
        node = {**config["head_node"], **node}
    tags = {
        TAG_RAY_NODE_KIND: NODE_KIND_HEAD if head else NODE_KIND_WORKER,
        TAG_RAY_NODE_NAME: f"ray-{config['cluster_name']}-{kind}",
        TAG_RAY_NODE_STATUS: "uninitialized",
        TAG_RAY_USER_NODE_TYPE: kind,
        TAG_RAY_LAUNCH_CONFIG: "x",
    }
    (name,) = provider.create_node(node, tags, 1)
    (reservation,) = account.client("ec2").describe_instances(InstanceIds=[name])["Reservations"]
    return provider, reservation["Instances"][0]


@pytest.mark.parametrize(
    ("kind", "machine", "profile", "spot"),
    [
        ("head", "m7i.xlarge", "kdray-head", False),
        ("cpu", "m7i.4xlarge", "kdray-worker", False),
        ("gpu_spot", "g6.12xlarge", "kdray-worker", True),
        ("gpu", "g6.12xlarge", "kdray-worker", False),
    ],
)
def test_a_node_starts_as_the_file_says_and_ends(
    account: Account, kind: str, machine: str, profile: str, spot: bool
) -> None:
    provider, instance = launch(account, kind)
    assert instance["InstanceType"] == machine
    assert (instance.get("InstanceLifecycle") == "spot") is spot
    assert instance["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/{profile}")
    assert instance["KeyName"] == f"ray-autoscaler_{account.config['provider']['region']}"
    assert [group["GroupName"] for group in instance["SecurityGroups"]] == ["kdray"]
    assert {"Key": "ray-cluster-name", "Value": "kdray"} in instance[
        "Tags"
    ]  # what iam/nodes.json asks of what is ended
    assert provider.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: kind}) == [instance["InstanceId"]]
    provider.terminate_nodes([instance["InstanceId"]])
    (reservation,) = account.client("ec2").describe_instances(InstanceIds=[instance["InstanceId"]])["Reservations"]
    assert reservation["Instances"][0]["State"]["Name"] in ("shutting-down", "terminated")  # and not stopped


def test_the_group_lets_in_ssh_and_its_own_members_alone(account: Account) -> None:
    """Ssh from everywhere at first; narrowed as the README says, it stays so."""
    client = account.client("ec2")
    (group,) = client.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["kdray"]}])["SecurityGroups"]
    inside = [rule for rule in group["IpPermissions"] if not rule["IpRanges"] and not rule["Ipv6Ranges"]]
    outside = [rule for rule in group["IpPermissions"] if rule not in inside]
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in outside] == [("tcp", 22, 22)]
    assert {pair["GroupId"] for rule in inside for pair in rule["UserIdGroupPairs"]} == {group["GroupId"]}
    for words in readme_commands("aws ec2"):
        given = dict(zip(words[3::2], words[4::2], strict=True))
        assert given["--group-name"] == group["GroupName"]
        port = int(given["--port"])
        change = getattr(client, words[2].replace("-", "_"))
        change(
            GroupId=group["GroupId"], IpProtocol=given["--protocol"], FromPort=port, ToPort=port, CidrIp=given["--cidr"]
        )
    resource_cache.cache_clear()
    bootstrap_aws(prepare_config(load("aws.yaml")))  # as another `ray up` does
    rules = client.describe_security_groups(GroupIds=[group["GroupId"]])["SecurityGroups"][0]["IpPermissions"]
    assert [each["CidrIp"] for rule in rules for each in rule["IpRanges"]] == ["203.0.113.0/24"]


def test_resources_are_those_of_the_machines(account: Account) -> None:
    machines = described(account.config)
    for name, each in load("aws.yaml")["available_node_types"].items():
        machine = machines[each["node_config"]["InstanceType"]]
        gpus = sum(gpu["Count"] for gpu in machine.get("GpuInfo", {}).get("Gpus", []))
        cpus = 0 if name == "head" else machine["VCpuInfo"]["DefaultVCpus"]
        assert (each["resources"]["CPU"], each["resources"].get("GPU", 0)) == (cpus, gpus)


def test_the_roles_may_do_what_the_policies_say(account: Account) -> None:
    iam = account.client("iam")
    for name, policies in (("kdray-head", ["bucket", "nodes"]), ("kdray-worker", ["bucket"])):
        assert sorted(iam.list_role_policies(RoleName=name)["PolicyNames"]) == policies
        profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
        assert [role["RoleName"] for role in profile["Roles"]] == [name]


def test_rays_key_is_readable_by_its_user_alone(account: Account) -> None:
    key = Path(account.config["auth"]["ssh_private_key"])
    assert key.parent == account.home / ".ssh" and os.stat(key).st_mode & 0o077 == 0
