"""Sharing the CPUs of a cluster's nodes between training workers and the processes that feed them.

Ray places whatever it is asked for, or waits for a place in silence. So what no node can hold is never asked for.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdray.errors import ClusterError
from kdray.experiment import Cluster
from kdray.train.environment import cluster_address

log = logging.getLogger(__name__)

GPU_WORKER_CPUS = 2.0  # the loop of a worker on a GPU, and the thread that copies batches to it


@dataclass(frozen=True)
class Shares:
    """CPUs for each training worker, and for the processes that read and decode for one worker."""

    worker_cpus: float
    data_cpus: float


@dataclass(frozen=True)
class Node:
    """What one machine of a cluster has."""

    cpus: float
    gpus: float = 0.0

    def places(self, cpus: float, gpus: float) -> int:
        """How many workers of that size it can hold."""
        by_cpu = math.floor(self.cpus / cpus + 1e-6)
        if not gpus:
            return by_cpu
        if gpus >= 1:
            return min(by_cpu, math.floor(self.gpus / gpus + 1e-6))
        # A share lies on one GPU: three times 0.6 need three of them. A node in the books may have less than one.
        each = math.floor(1 / gpus + 1e-6)
        rest = math.floor((self.gpus % 1) / gpus + 1e-6)
        return min(by_cpu, math.floor(self.gpus) * each + rest)


def nodes_of(listed: Iterable[Mapping[str, Any]]) -> list[Node]:
    """The nodes of `ray.nodes()` that are alive."""
    found = [node.get("Resources", {}) for node in listed if node["Alive"]]
    return [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in found]


def share_cpus(cluster: Cluster, nodes: Sequence[Node], stream: bool) -> Shares:
    """Divide the CPUs of `nodes` between the workers and, when data is streamed, the processes that feed them.

    A quarter feeds CPU workers; GPU workers are fed by all that their loops do not need. A worker lives on one node,
    and all of them must find a place.

    Raises:
        ClusterError: what the experiment asks for does not fit.
    """
    workers, gpus, total = cluster.workers, cluster.gpus_per_worker or 0.0, sum(node.cpus for node in nodes)
    if stream and cluster.data_cpus is not None and cluster.data_cpus <= 0:
        fix = "Raise it or leave it out, or set data.mode: resident"
        raise ClusterError("data that is streamed needs CPUs", where="cluster.data_cpus", fix=fix)
    worker = cluster.cpus_per_worker
    if worker is None:
        if workers > total:
            raise ClusterError(
                f"{workers} workers on {total:g} CPUs would wait for each other",
                where="cluster.workers",
                fix="Lower it, or say that it is meant: cluster.cpus_per_worker: 0.5",
            )
        kept = 0.0
        if stream:
            kept = cluster.data_cpus if cluster.data_cpus is not None else max(1.0, total // 4)
        worker = (total - kept) / workers
        if gpus and stream:
            worker = min(worker, GPU_WORKER_CPUS)
        worker = float(int(worker)) if worker >= 1 else math.floor(100 * worker) / 100
        while worker > 1 and _places(nodes, worker, gpus) < workers:
            worker -= 1
    data = 0.0
    if stream:
        left = total - workers * worker
        default = left if gpus else max(1.0, total // 4)
        data = cluster.data_cpus if cluster.data_cpus is not None else max(1.0, default)
    if worker <= 0 or workers * worker + data > total + 1e-6 or _places(nodes, worker, gpus) < workers:
        _refuse(cluster, nodes, worker, data, stream)
    return Shares(worker, data / workers)


def _places(nodes: Sequence[Node], cpus: float, gpus: float) -> int:
    return sum(node.places(cpus, gpus) for node in nodes)


def _refuse(cluster: Cluster, nodes: Sequence[Node], worker: float, data: float, stream: bool) -> None:
    gpus = cluster.gpus_per_worker
    need = f"{cluster.workers} workers x {worker:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
    need += f" + {data:g} CPU for data" if stream else ""
    there = f"{sum(node.cpus for node in nodes):g} CPUs"
    if len(nodes) > 1:
        sizes = [f"{node.cpus:g}" + (f" (with {node.gpus:g} GPUs)" if node.gpus else "") for node in nodes]
        there += f", on nodes of {', '.join(sizes[:8])}{', ...' if len(sizes) > 8 else ''}"
    raise ClusterError(
        f"{need} do not fit on {there}",
        where="cluster",
        fix="Lower cluster.workers or cluster.cpus_per_worker (fractions such as 0.5 are fine)"
        + (", or set data.mode: resident" if stream else ""),
    )


def shares_here(cluster: Cluster, nodes: Sequence[Node], stream: bool) -> Shares:
    """As `share_cpus`, for the cluster that was joined or started.

    A cluster that was joined may be small now and grow when it is asked: there what does not fit is asked for all the
    same, a whole CPU for each worker and each worker's data. A cluster of this machine will not grow.

    Raises:
        ClusterError: this machine cannot hold what the experiment asks for.
    """
    try:
        return share_cpus(cluster, nodes, stream)
    except ClusterError as error:
        if cluster_address(cluster) is None or error.where == "cluster.data_cpus":
            raise
        log.warning("%s now; waiting for the cluster to grow", error.problem)
        return Shares(cluster.cpus_per_worker or 1.0, (cluster.data_cpus or float(cluster.workers)) / cluster.workers)
