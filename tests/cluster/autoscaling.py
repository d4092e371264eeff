"""A Ray cluster that grows: a head without CPUs, and nodes on this machine that its autoscaler starts and ends."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.cluster.command import BIN, Head, Process, free_ports, running

PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"  # the provider's name for the head
SHELL_STEPS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)


def autoscaling_config(address: str, cpus: int, nodes: int, idle_s: float) -> dict[str, Any]:
    """What `ray up` would hand to the head: a head type without work, and at most `nodes` of `cpus` CPUs."""
    return {
        "cluster_name": "growing",
        "max_workers": nodes,
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "gcs_address": address,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": {"CPU": cpus, "object_store_memory": 100_000_000},
                "node_config": {},
                "min_workers": 0,
                "max_workers": nodes,
            },
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{step: [] for step in SHELL_STEPS},
    }


@contextlib.contextmanager
def growing_cluster(env: Mapping[str, str], folder: Path, cpus: int, nodes: int, idle_s: float) -> Iterator[Head]:
    """Such a cluster until the block ends, on the loopback interface; all it writes lies in `folder` (a short path).

    Its nodes are children of the head's autoscaler and of the head's session: they end with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gcs, dashboard, *rest = free_ports(6)
    address = f"127.0.0.1:{gcs}"
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(autoscaling_config(address, cpus, nodes, idle_s)))
    env = dict(env) | {
        "RAY_AUTH_MODE": "token",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    token = Process([BIN / "ray", "get-auth-token", "--generate"], folder, env, folder / "token.log")
    assert token.wait() == 0, token.output
    flags = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "ray-client-server-port": rest[0],
        "dashboard-agent-listen-port": rest[1],
        "dashboard-agent-grpc-port": rest[2],
        "metrics-export-port": rest[3],
        "num-cpus": 0,
        "object-store-memory": 100_000_000,
        "autoscaling-config": config,
        "temp-dir": folder / "r",
    }
    options = [f"--{name}={value}" for name, value in flags.items()]
    command = [BIN / "ray", "start", "--head", "--block", "--disable-usage-stats", *options]
    with running(Process(command, folder, env, folder / "head.log")) as process:
        process.wait_for(lambda: "Ray runtime started" in process.output, "start of the head")
        yield Head(process, address, f"http://127.0.0.1:{dashboard}", folder / "r")
