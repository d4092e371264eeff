"""How many trials a cluster holds at a time, and what each of them gets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdray.errors import ClusterError
from kdray.experiment import Cluster
from kdray.train.environment import cluster_address
from kdray.train.shares import GPU_WORKER_CPUS, Node, Shares

HEAD = "node:__internal_head__"
DRIVER_SHARE = 0.001  # of the head node, by name: it takes no CPU


@dataclass(frozen=True)
class Slots:
    """What a trial asks for: CPUs and GPUs of each of its workers, CPUs for data; and how many trials run at a time.

    `concurrent` is what the cluster holds as it is, `most` what would ever be of use. A cluster that `grows` began with
    room for `began` trials.
    """

    cluster: Cluster
    shares: Shares
    concurrent: int
    most: int = 1
    grows: bool = False
    began: int = 0

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What Ray Tune reserves for one trial. A trial of several workers only watches them; those reserve for
        themselves, and it sits on the head node, which no autoscaler takes away."""
        if self.cluster.workers > 1:
            return [{HEAD: DRIVER_SHARE}]
        gpus = self.cluster.gpus_per_worker or 0.0
        return [{"CPU": self.shares.worker_cpus} | ({"GPU": gpus} if gpus else {})]

    def held(self, nodes: Sequence[Node]) -> int:
        """Trials that `nodes` hold at a time, one at least and `most` at most."""
        return max(1, min(self.most, self._fits(nodes))) if self.grows else self.concurrent

    def asked(self, nodes: Sequence[Node]) -> int:
        """Trials to have under way on `nodes`, with those that wait for a place.

        Ray's autoscalers answer what waits, and say nowhere how far they go. So one trial more is asked for than the
        cluster holds, and once it has grown, as many more as it grew by. A trial of several workers would count as
        running while it waits: of those, none more is asked for until the cluster has grown.
        """
        if not self.grows:
            return self.concurrent
        fits = self._fits(nodes)
        ahead = max(1 if self.cluster.workers == 1 else 0, fits - self.began)
        return max(self.concurrent, min(self.most, max(1, fits + ahead)))

    def _fits(self, nodes: Sequence[Node]) -> int:
        workers, shares = max(1, self.cluster.workers), self.shares
        gpus = self.cluster.gpus_per_worker or 0.0
        return _fits(nodes, shares.worker_cpus, gpus, shares.data_cpus * workers, workers)

    @property
    def accelerators(self) -> float:
        """Accelerators that a trial occupies: GPUs, or CPU workers where there are none."""
        return self.cluster.workers * (self.cluster.gpus_per_worker or 1.0)


def find_slots(
    cluster: Cluster, nodes: Sequence[Node], stream: bool, wanted: int, limit: int | None = None, may_grow: int = 0
) -> Slots:
    """Divide the CPUs and GPUs of `nodes` among trials, at most `wanted` (there are no more) and at most `limit`.

    A worker takes `cluster.cpus_per_worker`; unset, one CPU where trials train on CPUs (two trials on a core each get
    further than one on two), else what its GPU's share of the node has, two at least being left to it. What is
    streamed needs CPUs beside (`cluster.data_cpus` a trial, unset: a quarter of the worker's or, beside GPUs, what is
    left). `may_grow` is how many trials a cluster that grows is trusted to find room for.

    Raises:
        ClusterError: not even one trial fits, on a cluster that does not grow.
    """
    gpus, workers = cluster.gpus_per_worker or 0.0, max(1, cluster.workers)
    largest = max(nodes, key=lambda node: (node.gpus if gpus else 0.0, node.cpus), default=Node(0.0))
    cpus, data = cluster.cpus_per_worker, cluster.data_cpus
    if gpus:
        share = largest.cpus * gpus / largest.gpus if largest.gpus else GPU_WORKER_CPUS
        if cpus is None:
            cpus = max(
                0.01, min(GPU_WORKER_CPUS, math.floor(100 * share) / 100) if stream else max(1.0, math.floor(share))
            )
        if data is None:
            data = max(0.5, share - cpus) * workers if stream else 0.0
    else:
        cpus = 1.0 if cpus is None else cpus
        data = (0.25 * workers if data is None else data) if stream else 0.0
    data = data if stream else 0.0
    shares = Shares(cpus, data / workers)
    fits = _fits(nodes, cpus, gpus, data, workers)
    ask = [count for count in (wanted, limit) if count is not None]
    joined = cluster_address(cluster) is not None
    if fits < 1 and not joined:
        there = f"{sum(node.cpus for node in nodes):g} CPUs" + (
            f" and {sum(node.gpus for node in nodes):g} GPUs" if gpus else ""
        )
        need = f"{workers} x {cpus:g} CPU" + (f" + {gpus:g} GPU" if gpus else "")
        need += f" + {data:g} CPU for data" if data else ""
        raise ClusterError(
            f"one trial needs {need}, and there are {there}",
            where="cluster",
            fix="Lower cluster.workers, cluster.cpus_per_worker or cluster.gpus_per_worker (fractions are fine)",
        )
    room = max(fits, may_grow) if joined else fits
    concurrent = max(1, min([max(1, room), *ask]))
    return Slots(cluster, shares, concurrent, most=max(1, min(ask)), grows=joined, began=fits)


def _fits(nodes: Sequence[Node], cpus: float, gpus: float, data: float, workers: int) -> int:
    """Trials that fit at a time: by places for their workers, and by the CPUs that all of it takes."""
    places = sum(node.places(cpus, gpus) for node in nodes) // workers
    total = sum(node.cpus for node in nodes)
    return min(places, math.floor(total / (workers * cpus + data) + 1e-6))


def room_to_grow(slots_of_one: Mapping[str, float], maxima: Mapping[str, Any] | None) -> int:
    """How many trials an autoscaler's largest cluster holds; `maxima` are its resources in all, None without one."""
    if not maxima:
        return 0
    counts = [math.floor(float(maxima.get(name, 0.0)) / amount) for name, amount in slots_of_one.items() if amount > 0]
    return min(counts, default=0)
