"""Feeds for small data: every image is decoded once and stays in memory, on the device where that can be.

Images of one size under crops, flips and quarter turns (nearly all CIFAR training) lie on the device as one padded
tensor, and a batch is one gather. Anything else, such as photographs of many sizes, stays decoded in this machine's
memory and is augmented by threads ahead of the loop, with the functions that the stream uses.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from kdray.data.augment import build_augment, build_transform
from kdray.data.bad import BadImages, stand_ins
from kdray.data.batch import Batch
from kdray.data.batching import batch_memory, batches, fill_bad, to_batch
from kdray.data.chunks import Chunk, Growing, Memory, Recipe, nothing_decodes
from kdray.data.decode import BadImage, decode_many
from kdray.data.gather import GatherPlan, PixelStore, pixel_store
from kdray.data.manifest import Manifest
from kdray.data.order import epoch_order
from kdray.data.reader import iter_rows
from kdray.data.threads import Workers, cpus, decode_rows, prefetch
from kdray.experiment import Data

_LOAD_ROWS = 4096
_AHEAD = 4  # batches that wait, ready, for the loop


class ResidentTrainFeed:
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
    ) -> None:
        self.steps_per_epoch, self.dropped = divmod(len(rows), batch)
        self._data, self._rows = data, np.asarray(rows, dtype=np.int64)
        self._batch, self._seed, self._rank, self._world = batch, seed, rank, world
        self._device, self._memory = device, batch_memory(device)
        self._recipe = Recipe(manifest, build_augment(data.augment, views=data.views), seed, 0, data.views)
        self._images = Images(manifest, self._rows)
        self._bad = BadImages(manifest, len(rows), data.max_bad_fraction)
        self._bad.add(self._images.bad)
        self._store: PixelStore | None = None
        plan = GatherPlan.of(self._recipe.augment, data.views)
        same = self._images.stacked if plan is not None else None
        if plan is not None and same is not None and plan.size(same.shape[1:3]) is not None:
            self._store = pixel_store(same, plan, device)
            self._images.forget()

    @property
    def bad_rows(self) -> frozenset[int]:
        return self._bad.rows

    @property
    def bad_images(self) -> int:
        return len(self._bad)

    def share_bad(self, rows: frozenset[int]) -> None:
        self._bad.share(rows)

    def close(self) -> None:
        """No epoch is begun before it is asked for."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        if start >= self.steps_per_epoch:
            return iter(())
        manifest = self._recipe.manifest
        order = epoch_order(manifest, self._rows, self._seed, epoch, self._data.shuffle_window_bytes)
        index, _ = order.locals(start, self._batch, self._rank, self._world)
        at = self._replace_bad(self._images.position(index))
        recipe = Recipe(manifest, self._recipe.augment, self._seed, epoch, self._data.views)
        return self._gathered(at, recipe) if self._store is not None else self._augmented(at, recipe)

    def _replace_bad(self, at: np.ndarray) -> np.ndarray:
        """Positions [steps, b] with good ones in the place of those of bad images; see `stand_ins`."""
        good = self._images.good[at]
        if good.all():
            return at
        if not good.any(axis=1).all():
            images, lost = self._images, at[np.argmin(good.any(axis=1))]
            reasons = [images.bad[int(row)] for row in images.index[lost]]
            chunk = Chunk(np.empty(0), images.labels[lost], images.ids[lost], images.index[lost], reasons)
            raise nothing_decodes(self._recipe, chunk)
        return np.take_along_axis(at, stand_ins(good), axis=1)

    def _gathered(self, at: np.ndarray, recipe: Recipe) -> Iterator[Batch]:
        assert self._store is not None
        images, views = self._images, recipe.views
        ids = images.ids[at]
        draws = [recipe.augment.draw(recipe.seed, recipe.epoch, ids.ravel(), view) for view in range(views)]
        crops = self._store.crops(at, [draw.reshape(*at.shape, -1) for draw in draws])
        columns = [torch.from_numpy(c).to(self._device) for c in (images.labels[at], images.index[at], ids)]
        for step in range(len(at)):
            labels, index, sample_ids = (column[step] for column in columns)
            yield Batch(self._store.gather(crops, step), labels, index, sample_ids, views)

    def _augmented(self, at: np.ndarray, recipe: Recipe) -> Iterator[Batch]:
        images, memory = self._images, self._memory

        def chunks() -> Iterator[Chunk]:
            workers = Workers()
            try:
                yield from workers.chunks((images.growing(rows, recipe, memory) for rows in at), at.shape[1])
            finally:
                workers.close()

        for chunk in prefetch(lambda: batches(chunks(), at.shape[1], recipe, memory), _AHEAD):
            self._bad.add(chunk.bad())  # of those that decode, what a transform would make too large
            fill_bad(chunk, recipe)
            yield to_batch(chunk, self._device)


class ResidentEvalFeed:
    """An `EvalFeed` of the rows `mine` of a split of `num_samples`; see `kdray.data.feed.eval_feed`.

    The transform is not random, so its results are what stays in memory.
    """

    def __init__(
        self, data: Data, manifest: Manifest, mine: np.ndarray, num_samples: int, batch: int, device: torch.device
    ) -> None:
        self.num_samples = num_samples
        self._batch = batch
        recipe = Recipe(manifest, build_transform(data.eval_transform))
        self._bad = BadImages(manifest, num_samples)
        workers = Workers()

        def chunks() -> Iterator[Chunk]:
            for rows in iter_rows(manifest, np.asarray(mine, dtype=np.int64), _LOAD_ROWS):
                chunk = decode_rows(rows, recipe, workers)
                self._bad.add(chunk.bad())
                yield chunk.good()

        try:
            whole = list(batches(chunks(), max(1, len(mine)), recipe))
        finally:
            workers.close()
        self._all = to_batch(whole[0], device) if whole else None

    @property
    def bad_images(self) -> int:
        return len(self._bad)

    def __iter__(self) -> Iterator[Batch]:
        if self._all is None:
            return
        parts = (self._all.images, self._all.labels, self._all.index, self._all.ids)
        for part in zip(*(whole.split(self._batch) for whole in parts), strict=True):
            yield Batch(*part)


class Images:
    """All images of the dense `rows` int64 [n], decoded once: `stacked` uint8 [n, H, W, 3] where they are of one size.

    `labels`, `ids`, `index` int64 [n]; `good` bool [n]; `bad` gives the reasons of the rows that did not decode.
    """

    def __init__(self, manifest: Manifest, rows: np.ndarray) -> None:
        self.labels, self.ids = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        self.index = np.sort(rows)  # in file order, so that each row group is read once
        self.good = np.ones(len(rows), dtype=bool)
        self.bad: dict[int, str] = {}
        self._position = np.full(manifest.num_samples, -1, dtype=np.int64)
        self._position[self.index] = np.arange(len(rows))
        decoded: list[np.ndarray | None] = []
        for part in prefetch(lambda: iter_rows(manifest, self.index, _LOAD_ROWS), 1):
            at = len(decoded)
            self.labels[at : at + len(part)], self.ids[at : at + len(part)] = part.labels, part.ids
            for image in decode_many(part.images, cpus()):
                if isinstance(image, BadImage):
                    self.good[len(decoded)] = False
                    self.bad[int(self.index[len(decoded)])] = str(image)
                decoded.append(None if isinstance(image, BadImage) else image)
        self._decoded = decoded

    @property
    def stacked(self) -> np.ndarray | None:
        """uint8 [n, H, W, 3], zeros where a row is bad; None where the sizes differ."""
        shapes = {image.shape for image in self._decoded if image is not None}
        if len(shapes) != 1:
            return None
        stacked = np.zeros((len(self._decoded), *shapes.pop()), dtype=np.uint8)
        for i, image in enumerate(self._decoded):
            if image is not None:
                stacked[i] = image
        return stacked

    def forget(self) -> None:
        """Let go of the pixels: another store has them."""
        self._decoded = []

    def position(self, index: np.ndarray) -> np.ndarray:
        """Position here of dense rows, int64 of the same shape."""
        return self._position[index]

    def growing(self, at: np.ndarray, recipe: Recipe, memory: Memory) -> Growing:
        """The images at positions `at` int64 [b], all of them good, to be augmented."""

        def pixels(i: int) -> np.ndarray:
            image = self._decoded[at[i]]
            assert image is not None
            return image

        return Growing(pixels, self.labels[at], self.ids[at], self.index[at], recipe, memory)
