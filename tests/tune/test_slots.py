"""How many trials a cluster holds, and what each of them gets."""

from __future__ import annotations

import pytest

from kdray.errors import ClusterError
from kdray.experiment import Cluster
from kdray.train.shares import Node, Shares
from kdray.tune.slots import HEAD, Slots, find_slots, room_to_grow

LAPTOP = [Node(2.0)]
MANY = 10**6


@pytest.fixture(autouse=True)
def no_cluster_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def cluster(**values: float | str) -> Cluster:
    return Cluster.model_validate(values)


def test_a_laptop_of_two_cpus_holds_two_trials_of_one() -> None:
    slots = find_slots(cluster(), LAPTOP, stream=False, wanted=MANY)
    assert (slots.concurrent, slots.shares) == (2, Shares(1.0, 0.0))
    assert slots.bundles == [{"CPU": 1.0}]
    assert slots.accelerators == 1.0


@pytest.mark.parametrize("cpus, held", [(0.5, 4), (2.0, 1), (0.1, 20)])
def test_cpus_per_worker_is_what_a_trial_takes(cpus: float, held: int) -> None:
    slots = find_slots(cluster(cpus_per_worker=cpus), LAPTOP, stream=False, wanted=MANY)
    assert (slots.concurrent, slots.bundles) == (held, [{"CPU": cpus}])


def test_no_more_than_are_wanted_and_no_more_than_the_limit() -> None:
    nodes = [Node(16.0)]
    assert find_slots(cluster(), nodes, False, wanted=MANY).concurrent == 16
    assert find_slots(cluster(), nodes, False, wanted=5).concurrent == 5
    assert find_slots(cluster(), nodes, False, wanted=5, limit=3).concurrent == 3
    assert find_slots(cluster(), nodes, False, wanted=5, limit=100).concurrent == 5
    assert find_slots(cluster(), nodes, False, wanted=0).concurrent == 1


def test_fractions_of_gpus_on_two_nodes() -> None:
    nodes = [Node(8.0, 1.0), Node(8.0, 1.0)]
    slots = find_slots(cluster(gpus_per_worker=0.25), nodes, stream=False, wanted=MANY)
    assert slots.concurrent == 8
    assert slots.bundles == [{"CPU": 2.0, "GPU": 0.25}]  # its quarter of the node's CPUs
    assert slots.accelerators == 0.25


@pytest.mark.parametrize(
    ("gpus", "there", "held"), [(0.3, 4, 12), (0.4, 4, 8), (0.6, 4, 4), (0.6, 2, 2), (1, 4, 4), (2, 4, 2), (2, 3, 1)]
)
def test_a_share_lies_on_one_gpu(gpus: float, there: int, held: int) -> None:
    few = cluster(gpus_per_worker=gpus, cpus_per_worker=0.1)
    assert find_slots(few, [Node(64.0, float(there))], stream=False, wanted=MANY).concurrent == held
    assert find_slots(few, [Node(64.0, float(there))] * 2, stream=False, wanted=MANY).concurrent == 2 * held


def test_a_gpu_is_not_put_together_from_two_nodes() -> None:
    nodes = [Node(8.0, 0.5), Node(8.0, 0.5)]
    with pytest.raises(ClusterError, match="one trial needs"):
        find_slots(cluster(gpus_per_worker=1), nodes, stream=False, wanted=MANY)


def test_several_workers_are_a_trial_that_watches() -> None:
    slots = find_slots(cluster(workers=2), [Node(4.0), Node(3.0)], stream=False, wanted=MANY)
    assert slots.concurrent == 3
    (bundle,) = slots.bundles
    assert list(bundle) == [HEAD] and 0 < bundle[HEAD] < 0.01  # its workers reserve for themselves
    assert slots.accelerators == 2.0
    gpus = find_slots(cluster(workers=2, gpus_per_worker=1), [Node(16.0, 4.0)], stream=False, wanted=MANY)
    assert (gpus.concurrent, gpus.accelerators) == (2, 2.0)


def test_streamed_data_keeps_cpus() -> None:
    slots = find_slots(cluster(), [Node(5.0)], stream=True, wanted=MANY)
    assert (slots.concurrent, slots.shares) == (4, Shares(1.0, 0.25))
    # A laptop: two would leave nothing to those that decode.
    assert find_slots(cluster(), LAPTOP, stream=True, wanted=MANY).concurrent == 1
    own = find_slots(cluster(data_cpus=1.0), [Node(6.0)], stream=True, wanted=MANY)
    assert (own.concurrent, own.shares) == (3, Shares(1.0, 1.0))
    resident = find_slots(cluster(data_cpus=1.0), [Node(6.0)], stream=False, wanted=MANY)
    assert (resident.concurrent, resident.shares) == (6, Shares(1.0, 0.0))


def test_beside_gpus_what_is_streamed_has_what_the_loops_leave() -> None:
    slots = find_slots(cluster(gpus_per_worker=1), [Node(32.0, 4.0)], stream=True, wanted=MANY)
    assert (slots.concurrent, slots.shares) == (4, Shares(2.0, 6.0))
    quarter = find_slots(cluster(gpus_per_worker=0.25), [Node(8.0, 1.0)], stream=True, wanted=MANY)
    assert (quarter.concurrent, quarter.shares) == (3, Shares(2.0, 0.5))  # half a CPU at least decodes


def test_the_data_of_several_workers_is_shared_between_them() -> None:
    slots = find_slots(cluster(workers=2, data_cpus=1.0), [Node(6.0)], stream=True, wanted=MANY)
    assert (slots.concurrent, slots.shares) == (2, Shares(1.0, 0.5))


@pytest.mark.parametrize(
    "values, nodes, said",
    [
        ({"workers": 3}, LAPTOP, "one trial needs 3 x 1 CPU, and there are 2 CPUs"),
        ({"cpus_per_worker": 4.0}, LAPTOP, "one trial needs 1 x 4 CPU, and there are 2 CPUs"),
        (
            {"gpus_per_worker": 2.0},
            [Node(8.0, 1.0)],
            r"one trial needs 1 x 16 CPU \+ 2 GPU, and there are 8 CPUs and 1 GPUs",
        ),
        ({}, [], "one trial needs 1 x 1 CPU, and there are 0 CPUs"),
    ],
)
def test_a_cluster_that_does_not_hold_one_trial(values: dict[str, float], nodes: list[Node], said: str) -> None:
    with pytest.raises(ClusterError, match=said) as error:
        find_slots(cluster(**values), nodes, stream=False, wanted=MANY, may_grow=100)
    assert error.value.where == "cluster" and "Lower cluster.workers" in str(error.value.fix)


def test_the_data_is_part_of_what_does_not_fit() -> None:
    with pytest.raises(ClusterError, match=r"1 x 1 CPU \+ 2 CPU for data, and there are 2 CPUs"):
        find_slots(cluster(data_cpus=2.0), LAPTOP, stream=True, wanted=MANY)


def test_a_cluster_that_was_joined_may_grow() -> None:
    joined = cluster(address="auto", gpus_per_worker=1)
    small = [Node(4.0)]  # its head; nodes with GPUs come when they are asked for

    def held(wanted: int, limit: int | None = None, may_grow: int = 0) -> Slots:
        return find_slots(joined, small, False, wanted, limit, may_grow)

    assert held(MANY).concurrent == 1  # asked for all the same
    assert held(MANY, may_grow=32).concurrent == 32
    assert held(10, may_grow=32).concurrent == 10
    assert held(10, 4, 32).concurrent == 4
    assert held(10).bundles == [{"CPU": 2.0, "GPU": 1.0}]
    large = find_slots(joined, [Node(64.0, 8.0)], False, MANY, may_grow=4)
    assert large.concurrent == 8  # what is there counts, whatever the maxima say


def test_a_cluster_of_a_job_is_joined_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert find_slots(cluster(workers=3), LAPTOP, False, MANY, may_grow=5).concurrent == 5


def test_room_to_grow() -> None:
    of_one = {"CPU": 2.0, "GPU": 0.5}
    assert room_to_grow(of_one, None) == 0
    assert room_to_grow(of_one, {}) == 0
    assert room_to_grow(of_one, {"CPU": 40.0, "GPU": 4.0}) == 8
    assert room_to_grow(of_one, {"CPU": 6.0, "GPU": 4.0}) == 3
    assert room_to_grow(of_one, {"CPU": 40.0}) == 0
    assert room_to_grow({"CPU": 1.0, "GPU": 0.0}, {"CPU": 40.0}) == 40
