"""Streaming needs memory for its windows and for what is on its way, however large the set and slow the consumer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from kdray.data.feed import train_feed
from kdray.data.manifest import Manifest, read_manifest
from kdray.data.ray_pool import Pool, shared_pool
from kdray.data.writer import Sample, write_shards

from .ray_here import small_ray
from .small import data

MIB = 1024**2
STORE, WINDOW = 80 * MIB, 32 * MIB
ROWS, LINKS, SIDE, CROP = 200, 22, 256, 96
BATCH = 32


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Any, Path]]:
    with small_ray(STORE) as (ray, folder):
        yield ray, folder


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """4,400 images, uncompressed, of which one shard is real and the others are links to it: ten object stores."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(8)]
    encoded = [cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes() for image in images]
    one = write_shards(
        [Sample(encoded[i % 8], i % 4, None) for i in range(ROWS)], str(folder / "one"), row_group_rows=16
    )
    (folder / "set").mkdir()
    for number in range(LINKS):
        os.link(folder / "one" / one.shards[0].name, folder / "set" / f"train-{number:05}-of-{LINKS:05}.parquet")
    manifest = read_manifest(str(folder / "set"))
    assert manifest.image_bytes > 10 * STORE
    return manifest


def feed(manifest: Manifest, **options: Any) -> Any:
    section = data(
        manifest, mode="stream", shuffle_window_bytes=WINDOW, augment=[{"pad_crop": {"padding": 0, "size": CROP}}]
    )
    rows = np.arange(manifest.num_samples)
    return train_feed(section, manifest, rows, batch=BATCH, seed=0, **({"use_ray": True} | options))


def anonymous_bytes(name: str, folder: Path) -> list[int]:
    """Memory of their own, without the object store's pages, of the processes of that name whose logs lie in `folder`,
    where another cluster of this machine has none.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if not (process / "cmdline").read_text().startswith(f"ray::{name}"):
                continue
            if not any(os.readlink(file).startswith(f"{folder}/") for file in (process / "fd").iterdir()):
                continue
            status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if "RssAnon" in status:
            found.append(1024 * int(status["RssAnon"].split()[0]))
    return found


def decoded(ray: Any, pool: Pool) -> int:
    return sum(ray.get([decoder.decoded.remote() for decoder in pool.decoders]))


def held(ray: Any, pool: Pool) -> int:
    return sum(ray.get([reader.held.remote() for reader in pool.readers]))


def settled(read: Any) -> int:
    """What `read()` gives once it has stayed the same for a while."""
    last, since = read(), time.monotonic()
    while time.monotonic() - since < 2.0:
        time.sleep(0.1)
        now = read()
        if now != last:
            last, since = now, time.monotonic()
    return last


def test_a_set_ten_times_the_object_store_streams_in_bounded_memory(cluster, large) -> None:
    ray, folder = cluster
    fed = feed(large, epochs=1)
    pool = shared_pool(None)
    assert held(ray, pool) == decoded(ray, pool) == 0
    before = anonymous_bytes("Reader", folder)
    assert len(before) == len(pool.readers) == 1
    peak = most_held = seen = 0
    spilled: set[str] = set()
    for number, batch in enumerate(fed.epoch(0)):
        seen += len(batch.labels)
        if number % 8 == 0:
            peak = max(peak, *anonymous_bytes("Reader", folder))
            most_held = max(most_held, held(ray, pool))
            spilled |= {path.name for path in folder.rglob("ray_spilled_objects*/*")}
    assert seen == large.num_samples // BATCH * BATCH
    assert decoded(ray, pool) == seen
    assert not spilled
    window_rows = WINDOW / (large.image_bytes / large.num_samples)
    assert window_rows / 2 < most_held <= 2 * window_rows  # the one that is taken from, and the one that comes next
    assert (
        peak - before[0] < 2 * WINDOW + 256 * MIB
    )  # and what malloc and Arrow keep: about 150 MiB, however long it runs


def test_a_consumer_that_stops_stops_the_producers(cluster, large) -> None:
    ray, _ = cluster
    fed = feed(large)
    pool = shared_pool(None)
    before = decoded(ray, pool)
    batches = fed.epoch(0)
    seen = len(next(batches).labels)
    for _ in range(2):
        ahead = settled(lambda: decoded(ray, pool)) - before - seen
        # 6 batches wait or are being put together, 5 pieces of 64 rows at most are decoded or on their way.
        assert 0 < ahead <= 6 * BATCH + 5 * 64
        assert held(ray, pool) <= 2 * WINDOW / (large.image_bytes / large.num_samples)
        for _ in range(20):
            seen += len(next(batches).labels)
    batches.close()
    assert settled(lambda: held(ray, pool)) == 0


def test_a_resume_decodes_nothing_that_was_consumed(cluster, large) -> None:
    ray, _ = cluster
    fed = feed(large, epochs=1)
    pool = shared_pool(None)
    before = decoded(ray, pool)
    start = fed.steps_per_epoch - 12
    tail = list(fed.epoch(0, start))
    assert len(tail) == 12 and decoded(ray, pool) - before == 12 * BATCH


def test_what_was_begun_of_an_epoch_that_is_not_wanted_is_given_up(cluster, large) -> None:
    ray, _ = cluster
    fed = feed(large, epochs=2)
    pool = shared_pool(None)
    assert len(list(fed.epoch(0, fed.steps_per_epoch - 4))) == 4
    assert settled(lambda: held(ray, pool)) > 0
    fed.close()
    assert settled(lambda: held(ray, pool)) == 0


def test_the_next_epoch_is_begun_while_one_ends_but_for_the_last(cluster, large) -> None:
    ray, _ = cluster
    fed = feed(large, epochs=2)
    pool = shared_pool(None)
    start, before = fed.steps_per_epoch - 4, decoded(ray, pool)
    assert len(list(fed.epoch(0, start))) == 4
    ahead = settled(lambda: decoded(ray, pool)) - before - 4 * BATCH
    assert 0 < ahead <= 5 * 64
    first = next(batches := fed.epoch(1))
    assert first.index.equal(next(feed(large, use_ray=False).epoch(1)).index)
    batches.close()
    assert len(list(fed.epoch(1, start))) == 4
    begun = settled(lambda: decoded(ray, pool))
    assert len(list(fed.epoch(1, start))) == 4
    assert settled(lambda: decoded(ray, pool)) - begun == 4 * BATCH  # nothing follows the last epoch
