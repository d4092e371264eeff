"""Joining or starting a Ray cluster, and sharing its CPUs between training workers and the processes that feed them."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdray.errors import ClusterError
from kdray.experiment import Cluster
from kdray.train.environment import cluster_address, prepare_environment, storage_credentials, storage_settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shares:
    """CPUs for each training worker, and for the processes that read and decode for one worker."""

    worker_cpus: float
    data_cpus: float


def share_cpus(cluster: Cluster, total_cpus: float, stream: bool, largest: float | None = None) -> Shares:
    """Divide `total_cpus` between the workers and, when data is streamed, the processes that feed them.

    Ray would wait for a CPU silently, so a share is always left to them. A worker lives on one node, so it gets no more
    CPUs than the `largest` one has (None: there is one).

    Raises:
        ClusterError: what the experiment asks for does not fit.
    """
    workers = cluster.workers
    wanted_data = cluster.data_cpus if cluster.data_cpus is not None else max(1.0, total_cpus // 4)
    if stream and wanted_data <= 0:
        fix = "Raise it or leave it out, or set data.mode: resident"
        raise ClusterError("data that is streamed needs CPUs", where="cluster.data_cpus", fix=fix)
    data = wanted_data if stream else 0.0
    worker = cluster.cpus_per_worker
    if worker is None:
        if workers > total_cpus:
            raise ClusterError(
                f"{workers} workers on {total_cpus:g} CPUs would wait for each other",
                where="cluster.workers",
                fix="Lower it, or say that it is meant: cluster.cpus_per_worker: 0.5",
            )
        worker = min((total_cpus - data) / workers, largest or total_cpus)
        worker = float(int(worker)) if worker >= 1 else round(worker, 2)
    if worker <= 0 or workers * worker + data > total_cpus + 1e-6:
        need = f"{workers} workers x {worker:g} CPU" + (f" + {data:g} CPU for data" if stream else "")
        raise ClusterError(
            f"{need} do not fit on {total_cpus:g} CPUs",
            where="cluster",
            fix="Lower cluster.workers or cluster.cpus_per_worker (fractions such as 0.5 are fine)"
            + (", or set data.mode: resident" if stream else ""),
        )
    return Shares(worker, data / workers)


def shares_here(cluster: Cluster, total_cpus: float, stream: bool, largest: float | None = None) -> Shares:
    """As `share_cpus`, for the cluster that was joined or started.

    A cluster that was joined may be small now and grow when it is asked: there what does not fit is asked for all the
    same, a whole CPU for each worker and each worker's data. A cluster of this machine will not grow.

    Raises:
        ClusterError: this machine cannot hold what the experiment asks for.
    """
    try:
        return share_cpus(cluster, total_cpus, stream, largest)
    except ClusterError as error:
        if cluster_address(cluster) is None or error.where == "cluster.data_cpus":
            raise
        log.warning("%s now; waiting for the cluster to grow", error.problem)
        return Shares(cluster.cpus_per_worker or 1.0, (cluster.data_cpus or float(cluster.workers)) / cluster.workers)


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
        options |= {"_node_ip_address": "127.0.0.1", "dashboard_host": "127.0.0.1"}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
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
