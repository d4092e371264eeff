"""How a cluster's CPUs are shared between training workers and what feeds them."""

from __future__ import annotations

import pytest

from kdray.errors import ClusterError
from kdray.experiment import Cluster
from kdray.train.cluster import Shares, share_cpus, shares_here


@pytest.mark.parametrize(
    ("workers", "total", "largest", "expected"),
    [
        (1, 8.0, 8.0, Shares(6.0, 2.0)),
        (1, 8.0, 4.0, Shares(4.0, 2.0)),  # two nodes of four: no node has six
        (2, 48.0, 16.0, Shares(16.0, 6.0)),
        (1, 72.0, 8.0, Shares(8.0, 18.0)),  # the largest node that trains, fed by others
        (2, 8.0, None, Shares(3.0, 1.0)),
    ],
)
def test_a_worker_fits_on_a_node(workers: int, total: float, largest: float | None, expected: Shares) -> None:
    assert share_cpus(Cluster(workers=workers), total, True, largest) == expected


@pytest.mark.parametrize("address", [None, "127.0.0.1:6379"])
def test_streaming_needs_cpus_for_data(address: str | None) -> None:
    cluster = Cluster(workers=2, data_cpus=0, address=address)
    with pytest.raises(ClusterError, match="needs CPUs") as caught:
        shares_here(cluster, 8.0, True)
    assert caught.value.where == "cluster.data_cpus"
    assert shares_here(cluster, 8.0, False) == Shares(4.0, 0.0)
