"""Streaming through actors, on one small cluster for the whole file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from kdray.data.feed import eval_feed, train_feed
from kdray.data.ray_pool import close_pools, shared_pool
from kdray.data.stream import spans_of_groups
from kdray.errors import ClusterError, DataError

from .ray_here import small_ray
from .small import data, identical, squares

N = 203
SMALL = 40_000  # bytes of a window: five of them in the set of squares
BAD = (7, 40, 41)


@pytest.fixture(scope="module")
def cluster():
    with small_ray(200 * 1024**2) as (ray, _):
        yield ray


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return squares(tmp_path_factory.mktemp("squares") / "set", N, bad=BAD)


@pytest.fixture(autouse=True)
def own_actors():
    """Tests ask for different numbers of CPUs, and those of one process stay as long as it does."""
    yield
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        close_pools()


def feed(manifest, use_ray, mode="stream", *, rank=0, world=1, cpus=None, epochs=None, **settings):
    settings = {"shuffle_window_bytes": SMALL, "augment": ["pad_crop", "flip"], "max_bad_fraction": 0.5, **settings}
    section = data(manifest, mode=mode, **settings)
    options = {"batch": 20, "seed": 3, "rank": rank, "world": world, "data_cpus": cpus, "epochs": epochs}
    return train_feed(section, manifest, np.arange(manifest.num_samples), use_ray=use_ray, **options)


@pytest.mark.parametrize(("world", "cpus"), [(1, None), (2, 0.5)])
@pytest.mark.parametrize(
    ("kind", "augment", "views"),
    [("small", ["pad_crop", "flip"], 2), ("photos", [{"random_resized_crop": {"size": 24}}, "flip"], 1)],
)
def test_the_same_crops_as_resident_and_as_threads(cluster, request, kind, augment, views, world, cpus) -> None:
    manifest = request.getfixturevalue(kind)
    for rank in range(world):
        options = {"augment": augment, "views": views, "rank": rank, "world": world}
        streamed = feed(manifest, True, cpus=cpus, **options)
        feeds = [streamed, feed(manifest, False, **options), feed(manifest, False, "resident", **options)]
        steps = 0
        for batch, *others in zip(*(one.epoch(1) for one in feeds), strict=True):
            assert all(identical(batch, other) for other in others)
            steps += 1
        assert steps == manifest.num_samples // 20
        assert streamed.bad_images == feeds[1].bad_images


def test_two_pipelines_at_once_give_each_rank_its_own(cluster, small) -> None:
    found: dict[int, list] = {}

    def work(rank: int) -> None:
        found[rank] = list(feed(small, True, rank=rank, world=2, cpus=1.0).epoch(0))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for rank in (0, 1):
        expected = feed(small, False, rank=rank, world=2).epoch(0)
        assert all(identical(one, other) for one, other in zip(found[rank], expected, strict=True))


@pytest.mark.parametrize("start", [3, 9, 10])
def test_a_resumed_epoch_is_the_tail_of_an_uninterrupted_one(cluster, small, start) -> None:
    whole, tail = list(feed(small, False).epoch(2)), list(feed(small, True).epoch(2, start))
    assert len(tail) == 10 - start
    assert all(identical(one, other) for one, other in zip(whole[start:], tail, strict=True))


@pytest.mark.parametrize(("world", "rows"), [(1, N), (3, N), (2, 7)])
def test_evaluation_counts_every_image_exactly_once(cluster, small, world, rows) -> None:
    feeds = [
        eval_feed(data(small, mode="stream"), small, np.arange(rows), batch=16, rank=rank, world=world, use_ray=True)
        for rank in range(world)
    ]
    shares = [[i for batch in one for i in batch.index.tolist()] for one in feeds]
    bad = [row for row in BAD if row < rows]
    assert sorted(row for share in shares for row in share) == sorted(set(range(rows)) - set(bad))
    assert sum(one.bad_images for one in feeds) == len(bad)


def test_an_epoch_left_early_frees_its_tasks_and_threads(cluster, photos) -> None:
    fed = feed(photos, True, augment=[{"random_resized_crop": {"size": 24}}])
    for _ in range(2):
        batches = fed.epoch(0)
        next(batches)
        batches.close()
        mine = ("kdray-prefetch", "kdray-decode", "kdray-read")
        assert not [thread for thread in threading.enumerate() if thread.name.startswith(mine)]
    assert len(list(fed.epoch(0))) == 4


def test_processes_that_die_are_started_again_and_change_no_bit(cluster, small) -> None:
    fed = feed(small, True, epochs=2)
    pool = shared_pool(None)
    pids = cluster.get(
        [actor.__ray_call__.remote(lambda self: os.getpid()) for actor in [*pool.readers, pool.decoders[0]]]
    )
    seen = []
    for epoch in (0, 1):
        batches = fed.epoch(epoch)
        seen.append(next(batches))
        while pids:
            os.kill(pids.pop(), signal.SIGKILL)
        seen += list(batches)
    expected = [batch for epoch in (0, 1) for batch in feed(small, False).epoch(epoch)]
    assert len(seen) == 20 and all(identical(one, other) for one, other in zip(seen, expected, strict=True))


def test_what_a_lost_process_was_to_decode_is_decoded_by_others(cluster, small, monkeypatch) -> None:
    # Stopped, it is as good as on a node that was lost and has no place to start again: nothing comes, no error either.
    monkeypatch.setattr("kdray.data.ray_chunks.TOLD_EVERY_S", 0.5)
    fed = feed(small, True, cpus=2.0, epochs=2)
    pool = shared_pool(2.0)
    assert len(pool.decoders) == 2
    (pid,) = cluster.get([pool.decoders[0].__ray_call__.remote(lambda self: os.getpid())])
    batches = fed.epoch(0)
    seen = [next(batches)]
    os.kill(pid, signal.SIGSTOP)
    try:
        seen += list(batches)
    finally:
        os.kill(pid, signal.SIGCONT)
    seen += list(fed.epoch(1))
    expected = [batch for epoch in (0, 1) for batch in feed(small, False).epoch(epoch)]
    assert len(seen) == 20 and all(identical(one, other) for one, other in zip(seen, expected, strict=True))
    cluster.get(pool.decoders[0].decoded.remote(), timeout=60)
    assert pool.decoders[0] in pool.ready() and len(pool.ready()) == 2, "it gets work again when it answers"


def test_nothing_at_all_is_an_error_in_the_end(cluster, small, monkeypatch) -> None:
    monkeypatch.setattr("kdray.data.ray_chunks.TOLD_EVERY_S", 0.2)
    monkeypatch.setattr("kdray.data.ray_chunks.START_TIMEOUT_S", 1.0)
    fed = feed(small, True)
    pids = cluster.get([one.__ray_call__.remote(lambda self: os.getpid()) for one in shared_pool(None).decoders])
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ClusterError, match="no images came for 1 s"):
            list(fed.epoch(0))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_an_error_of_a_task_is_its_own_error_here(cluster, tmp_path) -> None:
    manifest = squares(tmp_path / "set", 40)
    shard = tmp_path / "set" / manifest.shards[0].name
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match="cut off or changed") as error:
        list(feed(manifest, True).epoch(0))
    assert error.value.where.endswith(manifest.shards[0].name)


def test_too_many_bad_images_stop_the_run_and_are_named(cluster, small) -> None:
    with pytest.raises(DataError, match=r"3 of 203 images do not decode: ") as error:
        list(feed(small, True, max_bad_fraction=2.5 / N).epoch(0))
    assert all(small.position(row) in str(error.value) for row in BAD)


def test_no_free_cpu_is_an_error_instead_of_a_silent_wait(cluster, small, monkeypatch) -> None:
    @cluster.remote(num_cpus=2)
    class Greedy:
        def ready(self) -> bool:
            return True

    greedy = Greedy.remote()
    assert cluster.get(greedy.ready.remote())
    try:
        with monkeypatch.context() as patch, pytest.raises(ClusterError) as error:
            patch.setattr("kdray.data.ray_pool.FREE_CPU_TIMEOUT_S", 0.5)
            list(feed(small, True).epoch(0))
    finally:
        cluster.kill(greedy)
    said = str(error.value)
    assert "need 1, the cluster has 2 and 0 of them" in said and "cluster.cpus_per_worker" in said
    assert len(list(feed(small, True).epoch(0))) == 10  # the CPUs are back, and so is the data


def test_spans_are_cut_between_row_groups(small) -> None:
    rows = np.arange(0, N, 3)
    for span_bytes in (1, 10_000, 10**9):
        spans = spans_of_groups(small, rows, span_bytes)
        assert np.array_equal(np.concatenate(spans), rows)
        groups = [set(small.group_of(span).tolist()) for span in spans]
        assert sum(map(len, groups)) == len(set().union(*groups))
    assert len(spans) == 1 and spans_of_groups(small, rows[:0], 10) == []
    assert len(spans_of_groups(small, rows, 1)) == len(small.groups)


def test_tasks_start_without_torch() -> None:
    # Each of Ray's worker processes imports what the tasks need; torch would cost it seconds.
    code = "import sys, kdray.data.ray_chunks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, timeout=60).returncode == 0
