"""Which rows are trained on, held out, and in which order: functions of the data, the seed and the epoch alone.

Shards are read by row groups, so an order that jumped over the whole set would read everything for every batch. Here
row groups come in random order, as many at a time as fit in a window, and the rows of a window are fully permuted:
a set smaller than one window is fully shuffled, a larger one nearly so, and each row group is read once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdray.data.draws import keys, unit_hash
from kdray.data.manifest import Manifest
from kdray.errors import DataError

SPLIT_SEED = 20250  # never the experiment's seed: every seed and every method holds out the same images
_SPLIT, _GROUPS, _ROWS = 1, 2, 3  # tags of draws


def split_rows(ids: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Split a train set by a hash of the sample `ids` int64 [N] into train and validation rows, int64, ascending.

    A sample stays on its side when others are added, removed or moved to other shards.
    """
    held_out = unit_hash(SPLIT_SEED, ids, _SPLIT) < fraction
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


@dataclass(frozen=True)
class EpochOrder:
    """The global order of one epoch.

    `index` int64 [n] are dense row numbers; `group` int32 [n] is the position of the row's row group among the row
    groups of this epoch, `window` int32 [n] the number of the shuffle window; both grow from window to window.
    """

    index: np.ndarray
    group: np.ndarray
    window: np.ndarray

    def local(self, number: int, batch: int, rank: int, world: int) -> np.ndarray:
        """Return the dense rows int64 [batch / world] of this rank in global batch `number`."""
        return self.index[self._positions(number, number + 1, batch, rank, world)[0]]

    def locals(self, start: int, batch: int, rank: int, world: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows int64 [steps, batch / world] of this rank in batches `start` to the last whole one, and their
        windows int32 of the same shape (never falling along the flattened array).
        """
        at = self._positions(start, len(self.index) // batch, batch, rank, world)
        return self.index[at], self.window[at]

    def _positions(self, first: int, stop: int, batch: int, rank: int, world: int) -> np.ndarray:
        # Sorted by row group inside the batch, a rank's slices over a window lie in few row groups: ranks read little
        # that others read too, and the union over the ranks is the same batch for every world size.
        group = self.group[first * batch : stop * batch].reshape(-1, batch)
        share = batch // world
        inside = np.argsort(group, axis=1, kind="stable")[:, rank * share : (rank + 1) * share]
        return inside + np.arange(first, first + len(group))[:, None] * batch


def epoch_order(manifest: Manifest, rows: np.ndarray, seed: int, epoch: int, window_bytes: int) -> EpochOrder:
    """Return the order of the dense `rows` int64 [n] in an epoch. The same for every mode and every world size.

    `window_bytes` bounds the encoded bytes of one shuffle window (a single larger row group is a window of its own).
    """
    if not len(rows):
        raise DataError("no row is left to train on", where=manifest.uri, fix="Lower data.validation")
    rows = np.asarray(rows, dtype=np.int64)
    used, inverse, counts = np.unique(manifest.group_of(rows), return_inverse=True, return_counts=True)
    shuffled = np.argsort(keys(seed, epoch, used, _GROUPS), kind="stable")
    window_of_position = _windows((counts * _row_bytes(manifest)[used])[shuffled], window_bytes)
    position = np.empty(len(used), dtype=np.int32)
    position[shuffled] = np.arange(len(used), dtype=np.int32)
    group = position[inverse]
    window = window_of_position[group]
    order = np.lexsort((keys(seed, epoch, rows, _ROWS), window))
    return EpochOrder(rows[order], group[order], window[order])


def _row_bytes(manifest: Manifest) -> np.ndarray:
    """Mean encoded bytes of a row in every row group, float64 [G]."""
    per_shard = np.array([shard.bytes / max(1, shard.rows) for shard in manifest.shards])
    return per_shard[manifest.groups[:, 0]]


def _windows(group_bytes: np.ndarray, window_bytes: int) -> np.ndarray:
    """Number the windows that groups of these sizes fill one after the other, int32 [G]."""
    ends = np.cumsum(group_bytes)
    windows = np.empty(len(ends), dtype=np.int32)
    first = number = 0
    while first < len(ends):
        before = ends[first - 1] if first else 0.0
        stop = max(first + 1, int(np.searchsorted(ends, before + window_bytes, side="right")))
        windows[first:stop] = number
        first, number = stop, number + 1
    return windows
