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

BLOCK = "block"  # a private column of some collections: items with one number are read together or not at all


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
    keys = None if options.order == "source" else _path_keys(collection)
    order = _order(collection, keys)
    sizes = np.maximum(collection.items.column("bytes").to_numpy(), 1)[order]
    ends = np.cumsum(sizes, dtype=np.int64)
    total = int(ends[-1])
    shards = min(len(order), max(1, -int(-total * ratio // options.shard_bytes)))
    cuts = np.searchsorted(ends, [total * number // shards for number in range(1, shards)], side="left") + 1
    bounds = np.unique(np.concatenate([[0], cuts, [len(order)]])).astype(np.int64)
    if keys is not None and BLOCK in collection.items.column_names:
        rank = np.lexsort((keys[order], np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))))
        order, sizes = order[rank], sizes[rank]  # blocks mixed in each shard
    return Plan(collection.split, order, bounds, sizes, ratio)


def item_order(collection: Collection, options: PackOptions) -> np.ndarray:
    """Item numbers in the order in which shards take them, int64 [N]."""
    return _order(collection, None if options.order == "source" else _path_keys(collection))


def _order(collection: Collection, keys: np.ndarray | None) -> np.ndarray:
    if keys is None:
        return np.arange(collection.items.num_rows, dtype=np.int64)
    if BLOCK not in collection.items.column_names:
        return np.argsort(keys, kind="stable").astype(np.int64)
    # To read one item of a block is to read all of it: a shard of a few whole blocks, mixed, and not of an item from
    # each of a thousand blocks, which would read the whole source once for every shard.
    blocks = collection.items.column(BLOCK).to_numpy()
    block_keys = np.array([text_id(b"%d" % block) for block in range(int(blocks.max()) + 1)], np.int64)
    return np.lexsort((keys, block_keys[blocks])).astype(np.int64)


def _path_keys(collection: Collection) -> np.ndarray:
    keys = np.empty(collection.items.num_rows, dtype=np.int64)
    at = 0
    for batch in collection.items.select(["path"]).to_batches(max_chunksize=1 << 16):
        for path in batch.column(0).to_pylist():
            keys[at] = text_id(path.encode())
            at += 1
    return keys
