"""A window is asked for while the one before is consumed, so a loop that takes its time sees latency once."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from kdray.data.feed import train_feed
from kdray.data.manifest import Manifest
from kdray.data.order import epoch_order
from kdray.data.remote import footer, ranges_of
from kdray.experiment import Data
from tests.conftest import S3
from tests.data.ray_here import small_ray
from tests.data.small import data, squares
from tests.servers.faulty import Faulty

ROWS, BATCH, WINDOWS = 960, 8, 4
PATIENCE_S = 30.0


@dataclass
class Plan:
    """The windows of an epoch: each as the row groups that it is read from, (shard's name, first byte)."""

    settings: Data
    manifest: Manifest
    windows: list[set[tuple[str, int]]]
    window_of: np.ndarray

    def asked(self, proxy: Faulty) -> set[tuple[str, int]]:
        found = [(one.path, re.fullmatch(r"bytes=(\d+)-\d+", one.range or "")) for one in list(proxy.asked)]
        return {(path.rpartition("/")[2].partition("?")[0], int(span[1])) for path, span in found if span}

    def unasked(self, window: int, proxy: Faulty) -> set[tuple[str, int]]:
        return self.windows[window] - self.asked(proxy)


@pytest.fixture
def plan(proxy: Faulty, real_s3: S3) -> Plan:
    manifest = squares(real_s3.uri(f"ahead/{secrets.token_hex(4)}"), ROWS)
    settings = data(manifest, mode="stream", shuffle_window_bytes=manifest.image_bytes // WINDOWS)
    order = epoch_order(manifest, np.arange(ROWS), 1, 0, settings.shuffle_window_bytes)
    windows: list[set[tuple[str, int]]] = [set() for _ in range(int(order.window.max()) + 1)]
    window_of = np.empty(ROWS, int)
    window_of[order.index] = order.window
    columns = [f"{manifest.columns.image}.bytes", manifest.columns.label, str(manifest.columns.id)]
    for row, window in zip(order.index.tolist(), order.window.tolist(), strict=True):
        shard, group, _, _ = manifest.group(int(manifest.group_of(np.array([row]))[0]))
        info = manifest.shards[shard]
        known = footer(manifest.shard_uri(shard), info.bytes, manifest.fingerprint).metadata
        windows[window].add((info.name, ranges_of(known, [group], columns)[0][0]))
    assert len(windows) >= WINDOWS and min(map(len, windows[:-1])) > 5
    proxy.reset(latency_s=0.05)
    return Plan(settings, manifest, windows, window_of)


def follow(plan: Plan, proxy: Faulty, use_ray: bool) -> None:
    feed = train_feed(plan.settings, plan.manifest, np.arange(ROWS), batch=BATCH, seed=1, use_ray=use_ray, epochs=1)
    reached = -1
    for batch in feed.epoch(0):
        window = int(plan.window_of[batch.index.numpy()].min())
        if window == reached:
            continue
        reached = window
        # The loop has taken the first batch of a window and takes no more of it: the next one is asked for meanwhile.
        deadline = time.monotonic() + PATIENCE_S
        while window + 1 < len(plan.windows) and (left := plan.unasked(window + 1, proxy)):
            assert time.monotonic() < deadline, f"{len(left)} row groups of window {window + 1} wait for {window}'s end"
            time.sleep(0.01)
    assert reached == len(plan.windows) - 1
    assert set.union(*plan.windows) <= plan.asked(proxy), "row groups are told by their requests"


def test_in_threads(plan: Plan, proxy: Faulty) -> None:
    follow(plan, proxy, use_ray=False)


@pytest.fixture
def ray(proxy: Faulty) -> Iterator[None]:
    with small_ray(200 << 20):  # its processes have this one's AWS_* variables
        yield


def test_on_ray(plan: Plan, proxy: Faulty, ray: None) -> None:
    follow(plan, proxy, use_ray=True)
