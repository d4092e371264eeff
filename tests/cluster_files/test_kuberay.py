"""raycluster.yaml, rayjob.yaml, serviceaccounts.yaml: by the fields of ray.io/v1, by Kubernetes' own schema within."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.cluster_files.files import ROOT, load, load_all

SCHEMA = yaml.safe_load((Path(__file__).parent / "schemas" / "ray.io_v1.yaml").read_text())
VERSION = kubernetes_validate.latest_version()
NAMES = ("raycluster.yaml", "rayjob.yaml")


def within_kubernetes(kind: str, value: Any) -> dict[str, Any]:
    """An object of Kubernetes that has `value`, a `kind`, where one belongs."""
    if kind == "PodTemplateSpec":
        return {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": value}
    if kind == "ObjectMeta":
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": value}
    if kind == "Service":
        return {"apiVersion": "v1", "kind": "Service", **value}
    field = {
        "ResourceRequirements": "resources", "SecurityContext": "securityContext", "EnvVar[]": "env",
        "EnvFromSource[]": "envFrom", "VolumeMount[]": "volumeMounts",
    }[kind]  # fmt: skip
    containers = [{"name": "x", "image": "x", field: value}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": containers}}


def kubernetes(_: Any, kind: str, value: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    """The schema's keyword `x-kubernetes`."""
    try:
        kubernetes_validate.validate(within_kubernetes(kind, value), VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield jsonschema.ValidationError(f"{kind}: {error.message} at {list(error.path)}")


VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"x-kubernetes": kubernetes})


def problems(document: Any) -> list[str]:
    """What is wrong with a RayCluster or RayJob."""
    schema = SCHEMA | {"oneOf": [{"$ref": f"#/$defs/{document['kind']}"}]}
    inner = VALIDATOR(schema).iter_errors(document)
    return [error.message for found in inner for error in (found.context or [found])]


def cluster_of(document: Any) -> Any:
    return document["spec"].get("rayClusterSpec", document["spec"])


def pods_of(document: Any) -> list[Any]:
    """The pods that a file makes: of the head, of each group of workers, and the one that submits."""
    cluster = cluster_of(document)
    templates = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    return [each["spec"] for each in [*templates, document["spec"].get("submitterPodTemplate")] if each]


@pytest.fixture(params=NAMES)
def document(request: pytest.FixtureRequest) -> Any:
    # Through text: aliases would make a change in one place one in many.
    return yaml.safe_load(yaml.dump(copy.deepcopy(load(request.param)), Dumper=NoAliases))


class NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_field_is_known(document: Any) -> None:
    assert problems(document) == []


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("spec.enableInTreeAutoscalin", "'enableInTreeAutoscalin' was unexpected"),
        ("spec.autoscalerOptions.idleTimeoutSecond", "'idleTimeoutSecond' was unexpected"),
        ("spec.autoscalerOptions.version", "is not one of ['v1', 'v2']"),
        ("spec.authOptions.mode", "is not one of ['disabled', 'token']"),
        ("spec.headGroupSpec.rayStartParams.num-cpus", "is not of type 'string'"),
        ("spec.workerGroupSpecs.1.minReplica", "'minReplica' was unexpected"),
        ("spec.workerGroupSpecs.1.template.spec.nodeSelectr", "'nodeSelectr' was unexpected"),
        ("spec.workerGroupSpecs.2.template.spec.containers.0.resources.limit", "'limit' was unexpected"),
        ("spec.workerGroupSpecs.2.template.spec.tolerations.0.effct", "'effct' was unexpected"),
        ("spec.autoscalerOptions.securityContext.runAsRoot", "'runAsRoot' was unexpected"),
        ("metadata.nam", "'nam' was unexpected"),
    ],
)
def test_typos_are_seen(path: str, told: str) -> None:
    document: Any = yaml.safe_load(yaml.dump(load("raycluster.yaml"), Dumper=NoAliases))
    *way, last = path.split(".")
    place = document
    for key in way:
        place = place[int(key) if key.isdigit() else key]
    place[last] = 7
    assert told in "\n".join(problems(document))


def test_the_job_is_checked_too() -> None:
    document = load("rayjob.yaml")
    document["spec"]["shutdownAfterJobFinish"] = document["spec"].pop("shutdownAfterJobFinishes")
    assert "'shutdownAfterJobFinish' was unexpected" in "\n".join(problems(document))


def test_the_job_has_the_cluster() -> None:
    cluster, job = (load(name) for name in NAMES)
    assert cluster_of(cluster) == cluster_of(job)


def test_the_job_goes_on_by_itself_and_leaves_nothing_running() -> None:
    spec = load("rayjob.yaml")["spec"]
    assert spec["entrypoint"].startswith("python -m kdray.run experiments/imagenet_clmkd.yaml")
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"] is True


def test_ray_is_that_of_the_lock(document: Any) -> None:
    assert f"ray=={cluster_of(document)['rayVersion']}" in (ROOT / "requirements.lock").read_text().splitlines()


def test_the_head_runs_no_work_and_the_rest_comes_and_goes(document: Any) -> None:
    cluster = cluster_of(document)
    assert cluster["enableInTreeAutoscaling"] is True and cluster["autoscalerOptions"]["version"] == "v2"
    assert 0 < cluster["autoscalerOptions"]["idleTimeoutSeconds"] <= 600
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = cluster["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == ["cpu", "gpu-spot", "gpu"]
    assert all(group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"] for group in groups)


def test_the_token_is_wanted_and_the_dashboard_stays_inside(document: Any) -> None:
    cluster = cluster_of(document)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not {"headService", "enableIngress"} & set(cluster["headGroupSpec"])


def test_spot_and_on_demand_never_mix(document: Any) -> None:
    groups = {group["groupName"]: group for group in cluster_of(document)["workerGroupSpecs"]}
    spot, demand = (groups[name]["template"]["spec"] for name in ("gpu-spot", "gpu"))
    (label,) = spot["nodeSelector"]
    assert label in {toleration["key"] for toleration in spot["tolerations"]}
    assert label not in {toleration["key"] for toleration in demand["tolerations"]}
    affinity = demand["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert affinity["nodeSelectorTerms"] == [{"matchExpressions": [{"key": label, "operator": "DoesNotExist"}]}]
    assert spot["containers"] == demand["containers"]
    assert groups["gpu-spot"]["priority"] > groups["gpu"].get("priority", 0)


def test_every_container_is_confined_and_measured(document: Any) -> None:
    options = cluster_of(document)["autoscalerOptions"]
    containers = [container for pod in pods_of(document) for container in pod["containers"]]
    for each in [*containers, options]:
        context, resources = each["securityContext"], each["resources"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] == 1000
        assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(resources["limits"]) and set(resources["requests"]) == set(resources["limits"])
    assert len({container["image"] for container in containers}) == 1


def test_pods_restart_by_the_autoscaler_alone(document: Any) -> None:
    assert {pod["restartPolicy"] for pod in pods_of(document)} == {"Never"}


def test_pods_ask_for_the_bucket_under_a_name_that_is_there(document: Any) -> None:
    accounts = {account["metadata"]["name"]: account for account in load_all("serviceaccounts.yaml")}
    for account in accounts.values():
        kubernetes_validate.validate(account, VERSION, strict=True)
        assert set(account["metadata"]["annotations"]) == {
            "iam.gke.io/gcp-service-account",
            "eks.amazonaws.com/role-arn",
        }
    head, *workers = (pod for pod in pods_of(document) if "serviceAccountName" in pod)
    assert head["serviceAccountName"] == "kdray-head" in accounts
    assert {worker["serviceAccountName"] for worker in workers} == {"kdray-worker"} <= set(accounts)
    assert all(worker["automountServiceAccountToken"] is False for worker in workers) and len(workers) == 3
