"""How many trials are asked of a cluster that grows: one more than it holds, then as many more as it has grown by."""

from __future__ import annotations

from kdray.experiment import Cluster
from kdray.train.shares import Node
from kdray.tune.slots import find_slots

HEAD = Node(0.0)


def asked(cluster: Cluster, nodes: list[Node], most: int = 16) -> list[int]:
    """What is asked while `nodes` come one after the other."""
    slots = find_slots(cluster, [HEAD], stream=False, wanted=most)
    return [slots.asked([HEAD, *nodes[:count]]) for count in range(len(nodes) + 1)]


def test_a_cluster_without_nodes_is_asked_again_and_again() -> None:
    joined = Cluster(address="here:1", cpus_per_worker=1)
    assert asked(joined, 4 * [Node(1)]) == [1, 2, 4, 6, 8]
    assert asked(joined, 4 * [Node(4)]) == [1, 8, 16, 16, 16]
    assert asked(joined, 4 * [Node(4)], most=3) == [1, 3, 3, 3, 3]


def test_one_more_than_a_cluster_of_a_fixed_size_holds() -> None:
    joined = Cluster(address="here:1", cpus_per_worker=1)
    slots = find_slots(joined, [HEAD, Node(4)], stream=False, wanted=16)
    assert (slots.concurrent, slots.asked([HEAD, Node(4)]), slots.held([HEAD, Node(4)])) == (4, 5, 4)
    assert find_slots(joined, [HEAD, Node(4)], False, 16, limit=2).asked([HEAD, Node(4)]) == 2


def test_trials_of_several_workers_do_not_wait_as_running_ones() -> None:
    joined = Cluster(address="here:1", workers=2, cpus_per_worker=1)
    slots = find_slots(joined, [HEAD, Node(4)], stream=False, wanted=16)
    assert slots.asked([HEAD, Node(4)]) == 2
    assert slots.asked([HEAD, Node(4), Node(4)]) == 6


def test_a_cluster_of_this_machine_does_not_grow(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    slots = find_slots(Cluster(cpus_per_worker=1), [Node(2)], stream=False, wanted=16)
    assert (slots.concurrent, slots.asked([Node(2)]), slots.held([Node(2)])) == (2, 2, 2)
