"""Which item goes into which shard: a function of the listing and the options alone.

So shards can be written in any order, by any number of workers, in several runs, and the set is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from kdray.data.layout import shard_name
from kdray.data.pack.collection import Collection
from kdray.data.pack.options import PackOptions
from kdray.data.reader import text_id


@dataclass(frozen=True)
class Plan:
    """`order` int64 [N] are item numbers in the order of the packed rows; shard s takes `bounds[s]` to `bounds[s + 1]`
    of them, `bounds` int64 [S + 1]; `bytes` int64 [N] are the items' encoded sizes in that order, and `ratio` is what
    is expected to remain of them.
    """

    split: str
    order: np.ndarray = field(repr=False)
    bounds: np.ndarray = field(repr=False)
    bytes: np.ndarray = field(repr=False)
    ratio: float = 1.0

    @property
    def shards(self) -> int:
        return len(self.bounds) - 1

    def name(self, shard: int) -> str:
        return shard_name(self.split, shard, self.shards)

    def numbers(self, shard: int) -> np.ndarray:
        """Item numbers of a shard, int64, in the order of its rows."""
        return self.order[self.bounds[shard] : self.bounds[shard + 1]]

    def source_bytes(self, shard: int) -> int:
        return int(self.bytes[self.bounds[shard] : self.bounds[shard + 1]].sum())

    def task(self, shard: int, items: pa.Table) -> tuple[pa.Table, np.ndarray]:
        """The rows of `items` that the shard takes, in the source's order so that neighbours are read together, and for
        each its row in the shard, int64.
        """
        numbers = self.numbers(shard)
        ranks = np.argsort(numbers, kind="stable")
        return items.take(pa.array(numbers[ranks])), ranks


def make_plan(collection: Collection, options: PackOptions, ratio: float = 1.0) -> Plan:
    """Cut the items into shards of nearly equal size, as few as keep to `shard_bytes` on average.

    `ratio` is what re-encoding makes of a byte of the source.
    """
    order = item_order(collection, options)
    sizes = np.maximum(collection.items.column("bytes").to_numpy(), 1)[order]
    ends = np.cumsum(sizes, dtype=np.int64)
    total = int(ends[-1])
    shards = min(len(order), max(1, -int(-total * ratio // options.shard_bytes)))
    cuts = np.searchsorted(ends, [total * number // shards for number in range(1, shards)], side="left") + 1
    bounds = np.unique(np.concatenate([[0], cuts, [len(order)]])).astype(np.int64)
    return Plan(collection.split, order, bounds, sizes, ratio)


def item_order(collection: Collection, options: PackOptions) -> np.ndarray:
    """Item numbers in the order of the packed rows, int64 [N]."""
    count = collection.items.num_rows
    if options.order == "source":
        return np.arange(count, dtype=np.int64)
    keys = np.empty(count, dtype=np.int64)
    at = 0
    for batch in collection.items.select(["path"]).to_batches(max_chunksize=1 << 16):
        for path in batch.column(0).to_pylist():
            keys[at] = text_id(path.encode())
            at += 1
    return np.argsort(keys, kind="stable").astype(np.int64)
