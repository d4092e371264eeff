"""Feeds that read, decode and augment while the run goes on, for data that does not fit in memory.

What is read when is planned here; a `Line` of Ray actors or `ThreadLine` carries it out. A span is the part of a
shuffle window that this rank needs, and is read at once: each row group of the window that holds one of its rows, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from kdray.data.augment import build_augment, build_transform
from kdray.data.bad import BadImages
from kdray.data.batch import Batch
from kdray.data.batching import batch_memory, batches, fill_bad, to_batch
from kdray.data.chunks import Chunk, Memory, Recipe
from kdray.data.manifest import Manifest
from kdray.data.order import epoch_order
from kdray.data.threads import ThreadLine, prefetch
from kdray.experiment import Data

_AHEAD = 4  # batches that wait, ready, for the loop
_TASK_BYTES = 16 * 1024**2  # encoded bytes of a piece for Ray: hundreds of photographs, a second of work at most
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
        epochs: int | None,
    ) -> None:
        self.steps_per_epoch, self.dropped = divmod(len(rows), batch)
        self._data, self._manifest, self._rows = data, manifest, np.asarray(rows, dtype=np.int64)
        self._batch, self._seed, self._rank, self._world = batch, seed, rank, world
        self._device, self._memory = device, batch_memory(device)
        self._augment = build_augment(data.augment, views=data.views)
        self._engine = _Engine(self._recipe(0), batch // world, self._memory, data.engine, use_ray, data_cpus, world)
        self._bad = BadImages(manifest, len(rows), data.max_bad_fraction)
        self._epochs = epochs
        self._begun: tuple[tuple[int, int], Line] | None = None  # the next epoch (and start), while this one ends

    @property
    def bad_rows(self) -> frozenset[int]:
        return self._bad.rows

    @property
    def bad_images(self) -> int:
        return len(self._bad)

    def share_bad(self, rows: frozenset[int]) -> None:
        self._bad.share(rows)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        if start >= self.steps_per_epoch:
            return
        begun, self._begun = self._begun, None
        if begun is not None and begun[0] != (epoch, start):
            begun[1].close()
            begun = None
        line = begun[1] if begun is not None else self._line(epoch, start)
        recipe, size = self._recipe(epoch), self._batch // self._world

        def follow() -> Line | None:
            if epoch + 1 == self._epochs:
                return None
            self._begun = (epoch + 1, 0), self._line(epoch + 1, 0)
            return self._begun[1]

        try:
            for chunk in prefetched(line.chunks(follow), size, recipe, self._memory):
                self._bad.add(chunk.bad())
                fill_bad(chunk, recipe)
                yield to_batch(chunk, self._device)
        except BaseException:  # left early: what was begun of the next epoch may not be wanted
            self.close()
            raise

    def close(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun[1].close()

    def _line(self, epoch: int, start: int) -> Line:
        return self._engine.line(self._spans(epoch, start), self._recipe(epoch))

    def _spans(self, epoch: int, start: int) -> list[np.ndarray]:
        order = epoch_order(self._manifest, self._rows, self._seed, epoch, self._data.shuffle_window_bytes)
        index, window = order.locals(start, self._batch, self._rank, self._world)
        return split_where_changing(index.ravel(), window.ravel())

    def _recipe(self, epoch: int) -> Recipe:
        return Recipe(self._manifest, self._augment, self._seed, epoch, self._data.views)


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
        self._device, self._memory = device, batch_memory(device)
        self._recipe = Recipe(manifest, build_transform(data.eval_transform))
        self._engine = _Engine(self._recipe, batch, self._memory, data.engine, use_ray, data_cpus, world)
        self._bad = BadImages(manifest, num_samples)

    @property
    def bad_images(self) -> int:
        return len(self._bad)

    def __iter__(self) -> Iterator[Batch]:
        self._bad.clear()
        spans = spans_of_groups(self._manifest, self._mine, _EVAL_SPAN_BYTES)
        bad: dict[int, str] = {}  # filled ahead by the prefetching thread, counted when the pass is over
        chunks = _good(self._engine.line(spans, self._recipe).chunks(lambda: None), bad)
        for chunk in prefetched(chunks, self._batch, self._recipe, self._memory):
            yield to_batch(chunk, self._device)
        self._bad.add(bad)


class Line(Protocol):
    """A plan that is being carried out."""

    def chunks(self, follow: Callable[[], Any]) -> Iterator[Chunk]:
        """Yield its chunks, in order; `follow` is asked once, near the end, for the line that is to be begun next."""
        ...

    def close(self) -> None:
        """Give it up."""
        ...


class _Engine:
    """Carries out plans of spans, on Ray or in threads. It begins to start what `recipe` needs at once."""

    def __init__(
        self,
        recipe: Recipe,
        batch: int,
        memory: Memory,
        engine: str,
        use_ray: bool,
        data_cpus: float | None,
        world: int,
    ) -> None:
        self._make: Callable[[list[np.ndarray], Recipe], Line]
        if not use_ray:
            self._make = partial(ThreadLine, batch, memory)
            return
        manifest = recipe.manifest
        mean_bytes = max(1.0, manifest.image_bytes / max(1, manifest.num_samples))
        task_rows = int(np.clip(_TASK_BYTES / mean_bytes, *_TASK_ROWS))
        # Ray is not needed without it, and takes half a second to import.
        if engine == "ray_data":
            from kdray.data.ray_data_line import RayDataLine

            self._make = partial(RayDataLine, task_rows, data_cpus, world)
        else:
            from kdray.data.ray_chunks import Pace, RayLine
            from kdray.data.ray_pool import Sent, shared_pool

            pool = shared_pool(data_cpus)
            pool.warm(Sent.of(recipe))
            self._make = partial(RayLine, pool, Pace(task_rows, len(pool.decoders), mean_bytes, recipe.views, world))

    def line(self, spans: list[np.ndarray], recipe: Recipe) -> Line:
        """The line of these spans: dense rows int64 [n], each read at once."""
        return self._make(spans, recipe)


def prefetched(chunks: Iterator[Chunk], size: int, recipe: Recipe, memory: Memory) -> Iterator[Chunk]:
    """Cut `chunks`, a generator, into chunks of `size` rows that own their memory, some batches ahead in a thread."""

    def make() -> Iterator[Chunk]:
        try:
            yield from batches(chunks, size, recipe, memory)
        finally:
            chunks.close()  # type: ignore[attr-defined]

    return prefetch(make, _AHEAD)


def _good(chunks: Iterator[Chunk], bad: dict[int, str]) -> Iterator[Chunk]:
    """The rows that decoded; the others go into `bad`."""
    try:
        for chunk in chunks:
            bad.update(chunk.bad())
            yield chunk.good()
    finally:
        chunks.close()  # type: ignore[attr-defined]


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
