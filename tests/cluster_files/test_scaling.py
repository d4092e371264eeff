"""How the clusters grow: what Ray's own scheduler would start of each file, without starting it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingReply, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest

from kdray.experiment import Cluster
from kdray.train.shares import shares_here
from tests.cluster_files.files import CLOUDS, load

Asked = Sequence[dict[str, float]]
IMAGENET = [{"CPU": 2.0, "GPU": 1.0}] * 8  # the workers of imagenet_clmkd.yaml with cpus_per_worker=2


@pytest.fixture(params=[*CLOUDS, "raycluster.yaml"])
def config(request: pytest.FixtureRequest) -> AutoscalingConfig:
    raw = load(request.param)
    if "spec" in raw:
        raw["metadata"]["namespace"] = "default"
        raw = _derive_autoscaling_config_from_ray_cr(raw)
    return AutoscalingConfig(raw, skip_content_hash=True)


def schedule(config: AutoscalingConfig, together: Asked = (), tasks: Asked = (), refused: str = "") -> SchedulingReply:
    """What the autoscaler does about a placement group and tasks on an empty cluster; `refused` is a node type that the
    cloud has just refused.
    """
    group = GangResourceRequest(requests=[ResourceRequestUtil.make(each) for each in together])
    counted = ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(each) for each in tasks])
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=counted,
        gang_resource_requests=[group] if together else [],
        cloud_resource_availabilities={refused: 0.0},
        recoverable_resource_availabilities={refused: 0.0},
    )
    return ResourceDemandScheduler(Mock()).schedule(request)


def started(config: AutoscalingConfig, *asked: Asked, refused: str = "") -> dict[str, int]:
    """Nodes by type, named as in the cloud files."""
    refused = next((name for name in config.get_node_type_configs() if name.replace("-", "_") == refused), refused)
    reply = schedule(config, *asked, refused=refused)
    assert not reply.infeasible_gang_resource_requests and not reply.infeasible_resource_requests
    return {launch.instance_type.replace("-", "_"): launch.count for launch in reply.to_launch}


def test_nothing_is_started_for_nothing(config: AutoscalingConfig) -> None:
    assert started(config) == {}


def test_packing_gets_cpu_nodes(config: AutoscalingConfig) -> None:
    assert started(config, (), [{"CPU": 1.0}] * 20) == {"cpu": 2}


def test_training_gets_spot_gpus_first(config: AutoscalingConfig) -> None:
    assert started(config, IMAGENET) == {"gpu_spot": 2}


def test_training_gets_gpus_on_demand_where_spot_was_refused(config: AutoscalingConfig) -> None:
    assert started(config, IMAGENET, refused="gpu_spot") == {"gpu": 2}


def test_those_that_feed_it_fit_beside_it(config: AutoscalingConfig) -> None:
    """With cluster.data_cpus=72, as the README says: all the CPUs of the two GPU nodes, and none more."""
    cluster = Cluster(workers=8, gpus_per_worker=1, cpus_per_worker=2, data_cpus=72, address="auto")
    shares = shares_here(cluster, [], stream=True)  # on a cluster that is empty yet
    assert shares.worker_cpus == IMAGENET[0]["CPU"] and shares.data_cpus == 9
    feeding = [{"CPU": 1.0}] * int(8 * shares.data_cpus)
    assert started(config, IMAGENET, feeding) == {"gpu_spot": 2}


def test_no_more_than_the_limits(config: AutoscalingConfig) -> None:
    types = config.get_node_type_configs()
    most = sum(each.max_worker_nodes * int(each.resources.get("GPU", 0)) for each in types.values())
    one_too_many: list[dict[str, float]] = [{"GPU": 1.0}] * (most + 1)
    assert len(schedule(config, one_too_many).infeasible_gang_resource_requests) == 1
    launched: dict[str, Any] = {each.instance_type: each.count for each in schedule(config, (), one_too_many).to_launch}
    assert all(count <= types[name].max_worker_nodes for name, count in launched.items())
