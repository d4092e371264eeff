"""The same plan carried out by Ray Data: the same batches as every other way."""

from __future__ import annotations

import numpy as np
import pytest

from kdray.data.feed import eval_feed, train_feed
from kdray.errors import DataError

from .feeds import workers
from .ray_here import small_ray
from .small import data, identical, squares

N = 203
BAD = (7, 40, 41)


@pytest.fixture(scope="module")
def cluster():
    with small_ray(200 * 1024**2) as (ray, _):
        yield ray


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return squares(tmp_path_factory.mktemp("squares") / "set", N, bad=BAD)


def feed(manifest, use_ray, *, rank=0, world=1, cpus=None, **settings):
    settings = {"shuffle_window_bytes": 40_000, "augment": ["pad_crop", "flip"], "max_bad_fraction": 0.5, **settings}
    section = data(manifest, mode="stream", engine="ray_data", **settings)
    options = {"batch": 20, "seed": 3, "rank": rank, "world": world, "data_cpus": cpus}
    return train_feed(section, manifest, np.arange(manifest.num_samples), use_ray=use_ray, **options)


@pytest.mark.parametrize(("world", "cpus"), [(1, None), (2, 0.5)])
def test_the_same_crops_as_threads(cluster, small, world, cpus) -> None:
    for rank in range(world):
        options = {"views": 2, "rank": rank, "world": world}
        streamed, threads = feed(small, True, cpus=cpus, **options), feed(small, False, **options)
        pairs = list(zip(streamed.epoch(1), threads.epoch(1), strict=True))
        assert len(pairs) == N // 20
        assert all(identical(one, other) for one, other in pairs)
        assert streamed.bad_images == threads.bad_images


def test_a_resumed_epoch_is_the_tail_of_an_uninterrupted_one(cluster, photos) -> None:
    options = {"augment": [{"random_resized_crop": {"size": 24}}, "flip"]}
    whole, tail = list(feed(photos, False, **options).epoch(2)), list(feed(photos, True, **options).epoch(2, 2))
    assert len(tail) == len(whole) - 2 > 0
    assert all(identical(one, other) for one, other in zip(whole[2:], tail, strict=True))


def test_evaluation_counts_every_image_exactly_once(cluster, small) -> None:
    section = data(small, mode="stream", engine="ray_data")
    options = {"batch": 16, "world": 2, "use_ray": True}
    feeds = [eval_feed(section, small, np.arange(N), rank=rank, **options) for rank in (0, 1)]
    seen = sorted(row for one in feeds for batch in one for row in batch.index.tolist())
    assert seen == sorted(set(range(N)) - set(BAD))
    assert sum(one.bad_images for one in feeds) == len(BAD)


def test_an_epoch_left_early_leaves_no_threads(cluster, photos) -> None:
    batches = feed(photos, True, augment=[{"random_resized_crop": {"size": 24}}]).epoch(0)
    next(batches)
    batches.close()
    assert not workers()


def test_an_error_of_a_task_is_its_own_error_here(cluster, tmp_path) -> None:
    manifest = squares(tmp_path / "set", 40)
    shard = tmp_path / "set" / manifest.shards[0].name
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match="cut off or changed") as error:
        list(feed(manifest, True).epoch(0))
    assert error.value.where.endswith(manifest.shards[0].name)
