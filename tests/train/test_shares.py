"""How a cluster's CPUs are shared between training workers and what feeds them, so that all find a place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdray.errors import ClusterError
from kdray.experiment import Cluster
from kdray.train.shares import Node, Shares, nodes_of, share_cpus, shares_here

GPU = {"gpus_per_worker": 1.0}
SIZES = st.lists(st.integers(1, 64), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("workers", "nodes", "expected"),
    [
        (1, [8], Shares(6.0, 2.0)),
        (1, [4, 4], Shares(4.0, 2.0)),  # no node has six
        (2, [16, 16, 16], Shares(16.0, 6.0)),
        (4, [16, 16, 16], Shares(8.0, 3.0)),  # nine each would leave the fourth without a place
        (5, [16, 16, 16, 16], Shares(8.0, 3.2)),
        (2, [8], Shares(3.0, 1.0)),
        (3, [3], Shares(0.66, 1 / 3)),  # rounded up, they would not fit
        (3, [0, 3], Shares(0.66, 1 / 3)),  # a head that runs no work
    ],
)
def test_workers_find_a_place(workers: int, nodes: list[float], expected: Shares) -> None:
    found = share_cpus(Cluster(workers=workers), [Node(cpus) for cpus in nodes], True)
    assert found.worker_cpus == expected.worker_cpus and found.data_cpus == pytest.approx(expected.data_cpus)


@pytest.mark.parametrize(
    ("workers", "nodes", "stream", "expected"),
    [
        (1, [Node(8, 1)], True, Shares(2.0, 6.0)),  # the loop of a GPU needs little, what feeds it a lot
        (8, [Node(96, 8)], True, Shares(2.0, 10.0)),
        (8, [Node(96, 8)], False, Shares(12.0, 0.0)),
        (1, [Node(8, 1), Node(64)], True, Shares(2.0, 70.0)),  # fed by the node that has no GPU
        (1, [Node(8, 1), Node(64)], False, Shares(8.0, 0.0)),  # but it can only stand on the one that has
        (2, [Node(4, 2)], True, Shares(1.0, 1.0)),
    ],
)
def test_workers_on_gpus(workers: int, nodes: list[Node], stream: bool, expected: Shares) -> None:
    assert share_cpus(Cluster(workers=workers, **GPU), nodes, stream) == expected


@given(workers=st.integers(1, 12), sizes=SIZES, stream=st.booleans())
def test_whatever_the_default_shares_are_they_fit(workers: int, sizes: list[int], stream: bool) -> None:
    try:
        found = share_cpus(Cluster(workers=workers), [Node(size) for size in sizes], stream)
    except ClusterError:
        assert sum(sizes) < workers + stream or max(sizes) < workers, "there is room for a CPU each"
        return
    assert sum(int(size / found.worker_cpus + 1e-6) for size in sizes) >= workers
    assert workers * (found.worker_cpus + found.data_cpus) <= sum(sizes) + 1e-6
    assert (found.data_cpus > 0) == stream


@pytest.mark.parametrize(
    ("keys", "nodes", "said"),
    [
        ({"workers": 2, "cpus_per_worker": 5}, [Node(8), Node(4)], r"on 12 CPUs, on nodes of 8, 4"),
        (
            {"workers": 1, "cpus_per_worker": 8, **GPU},
            [Node(4, 1), Node(16)],
            r"8 CPU and 1 GPU .* nodes of 4 \(with 1 G",
        ),
        ({"workers": 3}, [Node(2)], "3 workers on 2 CPUs would wait for each other"),
        (
            {"workers": 1, "cpus_per_worker": 4, "data_cpus": 1},
            [Node(4)],
            r"1 workers x 4 CPU \+ 1 CPU for data do not",
        ),
    ],
)
def test_what_does_not_fit_is_refused(keys: dict[str, Any], nodes: list[Node], said: str) -> None:
    with pytest.raises(ClusterError, match=said):
        share_cpus(Cluster(**keys), nodes, True)


def test_a_cluster_that_was_joined_may_grow() -> None:
    joined = Cluster(workers=2, address="127.0.0.1:6379", **GPU)
    assert shares_here(joined, [Node(4)], True) == Shares(1.0, 1.0)
    with pytest.raises(ClusterError, match="do not fit"):
        shares_here(Cluster(workers=2, **GPU), [Node(4)], True)


@pytest.mark.parametrize("address", [None, "127.0.0.1:6379"])
def test_streaming_needs_cpus_for_data(address: str | None) -> None:
    cluster = Cluster(workers=2, data_cpus=0, address=address)
    with pytest.raises(ClusterError, match="needs CPUs") as caught:
        shares_here(cluster, [Node(8)], True)
    assert caught.value.where == "cluster.data_cpus"
    assert shares_here(cluster, [Node(8)], False) == Shares(4.0, 0.0)


def test_nodes_as_ray_lists_them() -> None:
    alive = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}}
    listed = [alive, {"Alive": False, "Resources": {"CPU": 4.0}}, {"Alive": True, "Resources": {}}]
    assert nodes_of(listed) == [Node(8.0, 2.0), Node(0.0, 0.0)]
