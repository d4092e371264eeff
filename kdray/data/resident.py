"""Feeds for small data: every image is decoded once and stays in memory, on the device where that can be.

Images of one size under crops, flips and quarter turns (nearly all CIFAR training) lie on the device as one padded
tensor, and a batch is one gather. Anything else, such as photographs of many sizes, stays decoded in this machine's
memory and is augmented by threads ahead of the loop, with the functions that the stream uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from kdray.data.augment import Augment, build_augment, build_transform
from kdray.data.bad import BadImages, stand_ins
from kdray.data.batch import Batch
from kdray.data.batching import batch_memory, batches, fill_bad, to_batch
from kdray.data.chunks import Chunk, Growing, Recipe, nothing_decodes
from kdray.data.footprint import decoded_bytes
from kdray.data.gather import GatherPlan, PixelStore, pixel_store
from kdray.data.manifest import Manifest
from kdray.data.order import epoch_order
from kdray.data.resident_images import Decoded, Transformed, decode_all, transform_all
from kdray.data.shared import keep, key_of
from kdray.data.threads import Workers, prefetch
from kdray.data.transforms import PadCrop
from kdray.experiment import Data

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
        augment = build_augment(data.augment, views=data.views)
        self._recipe = Recipe(manifest, augment, seed, 0, data.views)
        plan = GatherPlan.of(augment, data.views)
        pad = plan.crop if plan is not None and plan.crop.padding else None
        self._images = _decoded(manifest, self._rows, pad)
        columns = self._images.columns
        self._position = np.full(manifest.num_samples, -1, dtype=np.int64)
        self._position[columns.index] = np.arange(len(rows))
        self._good = np.ones(len(rows), dtype=bool)
        self._good[self._position[list(columns.bad)]] = False
        self._bad = BadImages(manifest, len(rows), data.max_bad_fraction)
        self._bad.add(columns.bad)
        self._store: PixelStore | None = None
        size = self._images.size
        if plan is not None and size is not None and plan.size(size) is not None:
            self._store = pixel_store(self._images.padded, plan, device)
            self._images = replace(self._images, pixels=np.empty(0, np.uint8))  # the store has them

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
        at = self._replace_bad(self._position[index])
        recipe = Recipe(manifest, self._recipe.augment, self._seed, epoch, self._data.views)
        return self._gathered(at, recipe) if self._store is not None else self._augmented(at, recipe)

    def _replace_bad(self, at: np.ndarray) -> np.ndarray:
        """Positions [steps, b] with good ones in the place of those of bad images; see `stand_ins`."""
        good = self._good[at]
        if good.all():
            return at
        if not good.any(axis=1).all():
            columns, lost = self._images.columns, at[np.argmin(good.any(axis=1))]
            index = columns.index[lost]
            reasons = [columns.bad[int(row)] for row in index]
            chunk = Chunk(np.empty(0), columns.labels[lost], columns.ids[lost], index, reasons)
            raise nothing_decodes(self._recipe, chunk)
        return np.take_along_axis(at, stand_ins(good), axis=1)

    def _gathered(self, at: np.ndarray, recipe: Recipe) -> Iterator[Batch]:
        assert self._store is not None
        known, views = self._images.columns, recipe.views
        ids = known.ids[at]
        draws = [recipe.augment.draw(recipe.seed, recipe.epoch, ids.ravel(), view) for view in range(views)]
        crops = self._store.crops(at, [draw.reshape(*at.shape, -1) for draw in draws])
        columns = [torch.from_numpy(c).to(self._device) for c in (known.labels[at], known.index[at], ids)]
        for step in range(len(at)):
            labels, index, sample_ids = (column[step] for column in columns)
            yield Batch(self._store.gather(crops, step), labels, index, sample_ids, views)

    def _augmented(self, at: np.ndarray, recipe: Recipe) -> Iterator[Batch]:
        memory = self._memory

        def chunks() -> Iterator[Chunk]:
            workers = Workers()
            try:
                yield from workers.chunks((self._growing(rows, recipe) for rows in at), at.shape[1])
            finally:
                workers.close()

        for chunk in prefetch(lambda: batches(chunks(), at.shape[1], recipe, memory), _AHEAD):
            self._bad.add(chunk.bad())  # of those that decode, what a transform would make too large
            fill_bad(chunk, recipe)
            yield to_batch(chunk, self._device)

    def _growing(self, at: np.ndarray, recipe: Recipe) -> Growing:
        """The images at positions `at` int64 [b], all of them good, to be augmented."""
        images, known = self._images, self._images.columns

        def pixels(i: int) -> np.ndarray:
            return images.image(at[i])

        return Growing(pixels, known.labels[at], known.ids[at], known.index[at], recipe, self._memory)


class ResidentEvalFeed:
    """An `EvalFeed` of the rows `mine` of a split of `num_samples`; see `kdray.data.feed.eval_feed`.

    The transform is not random, so its results are what stays in memory.
    """

    def __init__(
        self, data: Data, manifest: Manifest, mine: np.ndarray, num_samples: int, batch: int, device: torch.device
    ) -> None:
        self.num_samples = num_samples
        self._batch = batch
        self._bad = BadImages(manifest, num_samples)
        whole = _transformed(manifest, np.asarray(mine, dtype=np.int64), build_transform(data.eval_transform))
        known = whole.columns
        self._bad.add(known.bad)
        chunk = Chunk(whole.images[None], known.labels, known.ids, known.index, [""] * len(known.index))
        self._all = to_batch(chunk, device) if len(chunk) else None

    @property
    def bad_images(self) -> int:
        return len(self._bad)

    def __iter__(self) -> Iterator[Batch]:
        if self._all is None:
            return
        parts = (self._all.images, self._all.labels, self._all.index, self._all.ids)
        for part in zip(*(whole.split(self._batch) for whole in parts), strict=True):
            yield Batch(*part)


def _decoded(manifest: Manifest, rows: np.ndarray, pad: PadCrop | None) -> Decoded:
    """`decode_all`, shared: whatever else is done to images that are padded alike, they are the same."""
    pad = PadCrop(padding=pad.padding, fill=pad.fill) if pad is not None else None
    settings = [pad.padding, pad.fill] if pad is not None else None

    def expected() -> float:
        side = (decoded_bytes(manifest) / 3 / max(1, manifest.num_samples)) ** 0.5 + (2 * pad.padding if pad else 0)
        return 3 * side**2 * len(rows)

    return keep(key_of("decoded", manifest, rows, settings), partial(decode_all, manifest, rows, pad), expected)


def _transformed(manifest: Manifest, rows: np.ndarray, transform: Augment) -> Transformed:
    """`transform_all`, shared."""
    settings = [[op.name, op.model_dump(mode="json")] for op in transform.ops]

    def expected() -> float:
        size = transform.output_size(None)
        each = 3 * size[0] * size[1] if size else decoded_bytes(manifest) / max(1, manifest.num_samples)
        return each * len(rows)

    return keep(
        key_of("transformed", manifest, rows, settings), partial(transform_all, manifest, rows, transform), expected
    )
