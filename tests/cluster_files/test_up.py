"""aws.yaml and gcp.yaml: by Ray's own schema, by the clouds' own, and by what kdray promises of them."""

from __future__ import annotations

import copy
import importlib.resources
import json
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster_files.files import CLOUDS, FOLDER, ROOT, load, ray_commands


@pytest.fixture(params=CLOUDS)
def config(request: pytest.FixtureRequest) -> Any:
    return load(request.param)


def prepared(config: Any) -> Any:
    full = prepare_config(copy.deepcopy(config))
    validate_config(full)
    return full


def test_ray_accepts_the_file(config: Any) -> None:
    assert set(prepared(config)["available_node_types"]) == {"head", "cpu", "gpu", "gpu_spot"}


def test_ray_sees_a_typo(config: Any) -> None:
    config["idle_timeout_minute"] = config.pop("idle_timeout_minutes")
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minute"):
        prepared(config)


def test_nothing_of_rays_defaults_slips_in(config: Any) -> None:
    """Those install another Ray, start a dashboard for everyone and know no token."""
    full = prepared(config)
    commands = {key: full[key] for key in full if key.endswith("_commands")}
    assert {key for key, value in commands.items() if value} == {
        "setup_commands", "head_setup_commands", "worker_setup_commands",
        "head_start_ray_commands", "worker_start_ray_commands",
    }  # fmt: skip
    assert full["head_setup_commands"] == full["worker_setup_commands"] == config["setup_commands"]
    assert "ray-wheels" not in json.dumps(commands) and "0.0.0.0" not in json.dumps(commands)


def test_the_head_runs_no_work_and_the_rest_comes_and_goes(config: Any) -> None:
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert all(each["min_workers"] == 0 for each in types.values())
    assert sum(each["max_workers"] for each in types.values()) == config["max_workers"]
    assert 0 < config["idle_timeout_minutes"] <= 10
    assert all(each["resources"]["CPU"] > 0 for each in types.values())
    assert {name for name, each in types.items() if each["resources"].get("GPU")} == {"gpu", "gpu_spot"}
    assert types["gpu"]["resources"] == types["gpu_spot"]["resources"]


def test_every_start_wants_the_token_and_every_node_has_it(config: Any) -> None:
    commands = ray_commands(config)
    assert len(commands) == 2
    assert all("RAY_AUTH_MODE=token ray start" in command for command in commands)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"][0]


def test_the_dashboard_is_seen_from_the_head_alone(config: Any) -> None:
    head, worker = ray_commands(config)
    assert "--dashboard-host=127.0.0.1" in head.split()
    assert "dashboard" not in worker and "--ray-client-server-port" not in head


def test_what_is_mounted_is_there_and_small(config: Any) -> None:
    """Ray hashes all of it at each `ray up`: no .venv, no .git, no runs."""
    local = [path for path in config["file_mounts"].values() if not path.startswith("~")]
    assert all((ROOT / path).exists() for path in local) and not {".", "./", ""} & set(local)
    assert {"pyproject.toml", "requirements.lock", "README.md", "kdray", "cluster", "experiments"} == set(local)
    named = " ".join(config["setup_commands"] + config["head_start_ray_commands"])
    for path in ("cluster/install.sh", "cluster/node.sh"):
        assert f"~/kdray/{path}" in named and (ROOT / path).exists()


def test_both_clouds_are_set_up_in_the_same_way() -> None:
    aws, gcp = (load(name) for name in CLOUDS)
    own = {"provider", "auth", "available_node_types"}
    assert {k: v for k, v in aws.items() if k not in own} == {k: v for k, v in gcp.items() if k not in own}
    for name, each in aws["available_node_types"].items():
        other = gcp["available_node_types"][name]
        assert {k: v for k, v in each.items() if k != "node_config"} == {
            k: v for k, v in other.items() if k != "node_config"
        }


# --- AWS


def aws_problems(node_config: dict[str, Any]) -> str:
    """What EC2's API model has against a node of aws.yaml; SubnetIds and such are Ray's part."""
    session = botocore.session.get_session()
    shape = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    request = node_config | {"MinCount": 1, "MaxCount": 1}
    return botocore.validate.ParamValidator().validate(request, shape).generate_report()


def test_ec2_knows_every_field() -> None:
    types = load("aws.yaml")["available_node_types"]
    assert {name: aws_problems(each["node_config"]) for name, each in types.items()} == dict.fromkeys(types, "")
    wrong = types["gpu_spot"]["node_config"]
    wrong["InstanceMarketOptions"]["MarketTypo"] = wrong["InstanceMarketOptions"].pop("MarketType")
    assert "MarketTypo" in aws_problems(wrong)


def test_aws_spot_and_on_demand_differ_in_that_alone() -> None:
    types = load("aws.yaml")["available_node_types"]
    spot, demand = types["gpu_spot"]["node_config"], types["gpu"]["node_config"]
    market = spot.pop("InstanceMarketOptions")
    assert market["MarketType"] == "spot" and "MaxPrice" not in market["SpotOptions"]
    assert spot == demand
    assert not any("InstanceMarketOptions" in types[name]["node_config"] for name in ("head", "cpu", "gpu"))
    assert types["gpu_spot"]["priority"] > types["gpu"].get("priority", 0)


def test_aws_nodes_have_roles_and_an_encrypted_disk_and_want_tokens_for_their_metadata() -> None:
    config = load("aws.yaml")
    for name, each in config["available_node_types"].items():
        node = each["node_config"]
        assert node["IamInstanceProfile"] == {"Name": "kdray-head" if name == "head" else "kdray-worker"}
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"])
    assert set(config["provider"]["security_group"]) == {"GroupName"}  # no rules beyond Ray's: the group itself, ssh


@pytest.mark.parametrize("path", sorted((FOLDER / "iam").glob("*.json")), ids=lambda path: path.name)
def test_policies_give_no_more_than_is_named(path: Path) -> None:
    statements = json.loads(path.read_text())["Statement"]
    actions = [
        action for each in statements for action in ([each["Action"]], each["Action"])[type(each["Action"]) is list]
    ]
    assert not any(action == "*" or action.endswith(":*") for action in actions)
    for each in statements:
        if "iam:PassRole" in each["Action"]:
            assert each["Resource"].endswith(":role/kdray-worker")
        # A head that could tag what it likes could end what it likes.
        if {"ec2:CreateTags", "ec2:TerminateInstances"} & set(each["Action"]):
            asked = each["Condition"]["StringEquals"]
            new = asked == {"ec2:CreateAction": "RunInstances"} and each["Action"] == ["ec2:CreateTags"]
            assert new or asked == {"aws:ResourceTag/ray-cluster-name": load("aws.yaml")["cluster_name"]}
        if "s3:" in str(each["Action"]):
            assert each["Resource"].startswith("arn:aws:s3:::my-bucket")


def test_the_storage_policy_is_what_the_docs_say_that_kdray_needs() -> None:
    statements = json.loads((FOLDER / "iam" / "storage.json").read_text())["Statement"]
    text = (ROOT / "docs" / "storage.md").read_text()
    paragraph = text[text.index("Permissions:") :].split("\n\n")[0]
    assert all(f"`{action}`" in paragraph for each in statements for action in each["Action"])
    assert paragraph.count("`s3:") == sum(len(each["Action"]) for each in statements)


# --- Google


def compute_problems(node: Any, schema: dict[str, Any], schemas: dict[str, Any], where: str) -> list[str]:
    """What Compute Engine's discovery document has against a node of gcp.yaml."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"]]
    kind = schema["type"]
    if kind == "object":
        if not isinstance(node, dict):
            return [f"{where}: {node!r} is no map"]
        known = schema.get("properties", {})
        found = [f"{where}.{key}: unknown" for key in node if key not in known and "additionalProperties" not in schema]
        for key, value in node.items():
            inner = known.get(key, schema.get("additionalProperties"))
            found += compute_problems(value, inner, schemas, f"{where}.{key}") if inner else []
        return found
    if kind == "array":
        if not isinstance(node, list):
            return [f"{where}: {node!r} is no list"]
        return [
            p for i, item in enumerate(node) for p in compute_problems(item, schema["items"], schemas, f"{where}[{i}]")
        ]
    python = {"string": str, "boolean": bool, "integer": int, "number": (int, float), "any": object}[kind]
    if not isinstance(node, python):
        return [f"{where}: {node!r} is no {kind}"]
    if "enum" in schema and node not in schema["enum"]:
        return [f"{where}: {node!r} is none of {schema['enum']}"]
    return []


@pytest.fixture(scope="module")
def compute() -> dict[str, Any]:
    """The types of Compute Engine's API, from Google's client library."""
    document = importlib.resources.files("googleapiclient.discovery_cache") / "documents" / "compute.v1.json"
    return json.loads(document.read_text())["schemas"]


def test_compute_engine_knows_every_field(compute: dict[str, Any]) -> None:
    types = load("gcp.yaml")["available_node_types"]
    found = {n: compute_problems(t["node_config"], compute["Instance"], compute, n) for n, t in types.items()}
    assert found == {name: [] for name in types}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"machineTyp": "x"}, "gpu_spot.machineTyp: unknown"),
        ({"scheduling": {"provisioningModel": "SPOTTY"}}, "'SPOTTY' is none of"),
        ({"scheduling": [{"preemptible": True}]}, "is no map"),
    ],
)
def test_compute_engine_sees_typos(compute: dict[str, Any], change: dict[str, Any], told: str) -> None:
    node = load("gcp.yaml")["available_node_types"]["gpu_spot"]["node_config"] | change
    assert told in "\n".join(compute_problems(node, compute["Instance"], compute, "gpu_spot"))


def test_gcp_spot_and_on_demand_differ_in_that_alone() -> None:
    types = load("gcp.yaml")["available_node_types"]
    spot, demand = types["gpu_spot"]["node_config"], types["gpu"]["node_config"]
    assert spot.pop("scheduling")["provisioningModel"] == "SPOT"
    assert demand.pop("scheduling")["provisioningModel"] == "STANDARD"
    assert spot == demand
    assert types["gpu_spot"]["priority"] > types["gpu"].get("priority", 0)


def test_gcp_names_its_project_and_zone_in_one_way() -> None:
    config = load("gcp.yaml")
    zone, project = config["provider"]["availability_zone"], config["provider"]["project_id"]
    assert zone.startswith(config["provider"]["region"])
    for name, each in config["available_node_types"].items():
        node = each["node_config"]
        assert all(f"/{zone}/" in f"/{disk['initializeParams']['diskType']}" for disk in node["disks"])
        if name != "head":  # whose account is Ray's
            (account,) = node["serviceAccounts"]
            assert account["email"] == f"kdray-worker@{project}.iam.gserviceaccount.com"
