"""Joining or starting a Ray cluster."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from kdray.errors import ClusterError
from kdray.experiment import Cluster
from kdray.train.environment import cluster_address, prepare_environment, storage_credentials, storage_settings


def connect_in_background(cluster: Cluster) -> Callable[[], None]:
    """Start or join Ray beside the checks, which need none of it; the returned function waits for it and raises its
    error. Torch takes as long to import as Ray to start: call this first.
    """
    if cluster.workers == 0:
        return lambda: None
    prepare_environment(local=cluster_address(cluster) is None)
    failure: list[BaseException] = []
    connected = threading.Event()

    def work() -> None:
        try:
            connect(cluster)
        except BaseException as error:  # raised again where the cluster is needed
            failure.append(error)
        connected.set()
        # Ray's servers end with the thread that started them (Linux ties a child's death signal to it), not with the
        # process: this one must stay.
        threading.Event().wait()

    threading.Thread(target=work, name="ray-connect", daemon=True).start()

    def wait() -> None:
        importlib.import_module("kdray.train.trainer")  # it will be needed, and takes a second
        connected.wait()
        if failure:
            raise failure[0]

    return wait


def connect(cluster: Cluster) -> None:
    """Join the cluster of `cluster.address` or RAY_ADDRESS (set inside a Ray job), else start one on this machine.

    A cluster started here listens on the loopback interface alone.

    Raises:
        ClusterError: the cluster does not answer.
    """
    address = cluster_address(cluster)
    prepare_environment(local=address is None)
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        # For all of the job: a worker's own environment would not reach the controller, nor those that feed it.
        settings, credentials = storage_settings(), storage_credentials()
        lent: dict[str, Any] = {"env_vars": settings} if settings else {}
        lent |= {"worker_process_setup_hook": credentials} if credentials else {}
        options |= {"address": address, **({"runtime_env": lent} if lent else {})}
    else:
        # "local": Ray would else join whatever cluster was last started on this machine, or fail where that is gone.
        options |= {"address": "local", "_node_ip_address": "127.0.0.1", "dashboard_host": "127.0.0.1"}
    try:
        ray.init(**options)
    except Exception as error:  # a node that does not start in time raises no more than that
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterError(
            f"Ray does not start or answer at {address or 'this machine'}: {reason}",
            where="cluster.address" if address else "cluster",
            fix="Check the address and RAY_AUTH_MODE, or set cluster.workers=0 to run in one process without Ray",
        ) from error


def with_gpus(cluster: Cluster, there: float) -> Cluster:
    """Settle `gpus_per_worker` for a cluster that has `there` GPUs."""
    if cluster.gpus_per_worker is not None:
        return cluster
    enough = cluster.device != "cpu" and 0 < cluster.workers <= there
    return cluster.model_copy(update={"gpus_per_worker": 1.0 if enough else 0.0})


def check_gpus(cluster: Cluster) -> None:
    """Raise ClusterError when the cluster that is there can never hold the GPUs asked for.

    A cluster that grows on demand may be empty now, so only clusters started on this machine are judged.
    """
    if cluster_address(cluster):
        return
    import ray

    wanted, there = cluster.workers * (cluster.gpus_per_worker or 0), ray.cluster_resources().get("GPU", 0.0)
    if wanted > there:
        raise ClusterError(
            f"{cluster.workers} workers x {cluster.gpus_per_worker:g} GPU do not fit on {there:g} GPUs",
            where="cluster.gpus_per_worker",
            fix="Set cluster.gpus_per_worker=0 to train on CPUs, or run on a cluster that has them",
        )
