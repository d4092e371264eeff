"""Feeds that read, decode and augment while the run goes on, for data that does not fit in memory.

What is read when is planned here; `ray_chunks` or `thread_chunks` carries it out. A span is the part of a shuffle
window that this rank needs, and is read at once: each row group of the window that holds one of its rows, once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from kdray.data.augment import build_augment, build_transform
from kdray.data.bad import BadImages
from kdray.data.batch import Batch
from kdray.data.batching import batches, fill_bad, to_batch
from kdray.data.chunks import Chunk, Recipe
from kdray.data.manifest import Manifest
from kdray.data.order import epoch_order
from kdray.data.threads import prefetch, thread_chunks
from kdray.experiment import Data

_AHEAD = 4  # batches that wait, ready, for the loop
_TASK_BYTES = 16 * 1024**2  # encoded bytes of a decode task: hundreds of photographs, seconds of work at most
_TASK_ROWS = (64, 4096)
_EVAL_SPAN_BYTES = 64 * 1024**2


class StreamTrainFeed:
    """A `TrainFeed`; see `kdray.data.feed.train_feed`."""

    def __init__(
        self,
        data: Data,
        manifest: Manifest,
        rows: np.ndarray,
        batch: int,
        seed: int,
        rank: int,
        world: int,
        device: torch.device,
        use_ray: bool,
        data_cpus: float | None,
    ) -> None:
        self.steps_per_epoch, self.dropped = divmod(len(rows), batch)
        self._data, self._manifest, self._rows = data, manifest, np.asarray(rows, dtype=np.int64)
        self._batch, self._seed, self._rank, self._world = batch, seed, rank, world
        self._device = device
        self._augment = build_augment(data.augment, views=data.views)
        self._engine = _Engine(manifest, use_ray, data_cpus, world)
        self._bad = BadImages(manifest, len(rows), data.max_bad_fraction)

    @property
    def bad_rows(self) -> frozenset[int]:
        return self._bad.rows

    @property
    def bad_images(self) -> int:
        return len(self._bad)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        if start >= self.steps_per_epoch:
            return
        order = epoch_order(self._manifest, self._rows, self._seed, epoch, self._data.shuffle_window_bytes)
        index, window = order.locals(start, self._batch, self._rank, self._world)
        recipe = Recipe(self._manifest, self._augment, self._seed, epoch, self._data.views)
        spans = split_where_changing(index.ravel(), window.ravel())
        for chunk in self._engine.batches(spans, recipe, index.shape[1], self._device, good_only=False):
            self._bad.add(chunk.bad())
            fill_bad(chunk, recipe)
            yield to_batch(chunk, self._device)


class StreamEvalFeed:
    """An `EvalFeed` of the rows `mine` of a split of `num_samples`; see `kdray.data.feed.eval_feed`."""

    def __init__(
        self,
        data: Data,
        manifest: Manifest,
        mine: np.ndarray,
        num_samples: int,
        batch: int,
        world: int,
        device: torch.device,
        use_ray: bool,
        data_cpus: float | None,
    ) -> None:
        self.num_samples = num_samples
        self._manifest, self._mine, self._batch = manifest, np.asarray(mine, dtype=np.int64), batch
        self._device = device
        self._recipe = Recipe(manifest, build_transform(data.eval_transform))
        self._engine = _Engine(manifest, use_ray, data_cpus, world)
        self._bad = BadImages(manifest, num_samples)

    @property
    def bad_images(self) -> int:
        return len(self._bad)

    def __iter__(self) -> Iterator[Batch]:
        self._bad.clear()
        spans = spans_of_groups(self._manifest, self._mine, _EVAL_SPAN_BYTES)
        bad: dict[int, str] = {}  # filled ahead by the prefetching thread, counted when the pass is over
        for chunk in self._engine.batches(spans, self._recipe, self._batch, self._device, good_only=True, bad=bad):
            yield to_batch(chunk, self._device)
        self._bad.add(bad)


class _Engine:
    """Carries out a plan of spans, through Ray Data or threads, and prefetches the batches."""

    def __init__(self, manifest: Manifest, use_ray: bool, data_cpus: float | None, world: int) -> None:
        self._use_ray, self._data_cpus, self._world = use_ray, data_cpus, world
        mean_bytes = max(1.0, manifest.image_bytes / max(1, manifest.num_samples))
        self._task_rows = int(np.clip(_TASK_BYTES / mean_bytes, *_TASK_ROWS))

    def batches(
        self,
        spans: list[np.ndarray],
        recipe: Recipe,
        size: int,
        device: torch.device,
        good_only: bool,
        bad: dict[int, str] | None = None,
    ) -> Iterator[Chunk]:
        """Yield chunks of `size` rows of the spans, in order; `good_only` leaves the bad rows out and puts them in
        `bad`.
        """

        def make() -> Iterator[Chunk]:
            chunks = self._chunks(spans, recipe)
            try:
                kept = chunks if not good_only else _good(chunks, bad if bad is not None else {})
                yield from batches(kept, size, recipe, pin=device.type == "cuda")
            finally:
                chunks.close()  # type: ignore[attr-defined]

        return prefetch(make, _AHEAD)

    def _chunks(self, spans: list[np.ndarray], recipe: Recipe) -> Iterator[Chunk]:
        if not self._use_ray:
            return thread_chunks(spans, recipe, self._task_rows)
        from kdray.data.ray_chunks import ray_chunks  # Ray is not needed without it, and takes half a second to import

        return ray_chunks(spans, recipe, self._task_rows, self._data_cpus, self._world)


def _good(chunks: Iterator[Chunk], bad: dict[int, str]) -> Iterator[Chunk]:
    for chunk in chunks:
        bad.update(chunk.bad())
        yield chunk.good()


def split_where_changing(index: np.ndarray, key: np.ndarray) -> list[np.ndarray]:
    """Cut `index` [n] where `key` [n] changes."""
    return np.split(index, np.flatnonzero(np.diff(key)) + 1)


def spans_of_groups(manifest: Manifest, index: np.ndarray, span_bytes: int) -> list[np.ndarray]:
    """Cut ascending rows `index` int64 [n] at borders of row groups, at about `span_bytes` of encoded bytes a piece."""
    if not len(index):
        return []
    groups = manifest.group_of(index)
    mean_bytes = manifest.image_bytes / max(1, manifest.num_samples)
    first = np.flatnonzero(np.diff(groups, prepend=-1))  # where each row group's rows begin
    return split_where_changing(index, np.repeat((first * mean_bytes) // span_bytes, np.diff([*first, len(index)])))
