"""Cutting a stream of chunks into batches on a device.

Chunks come in any size, batches in one. A batch owns its memory: it is copied once out of the chunks, which may be
pages of Ray's object store that are to be freed soon. A chunk that is as long as a batch and owns its memory is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from kdray.data.bad import stand_ins
from kdray.data.batch import Batch
from kdray.data.chunks import Chunk, Memory, Recipe, Shape, new_memory, nothing_decodes, sizes_differ
from kdray.data.readonly import tensor_of
from kdray.data.recycled import Recycled


def batch_memory(device: torch.device) -> Memory:
    """What gives memory for the batches of a feed: pinned for a GPU, used again where a batch stays in it."""
    return Recycled() if device.type == "cpu" else _pinned if device.type == "cuda" else new_memory


def _pinned(shape: Shape) -> np.ndarray:
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()


def batches(chunks: Iterable[Chunk], size: int, recipe: Recipe, memory: Memory = new_memory) -> Iterator[Chunk]:
    """Cut a stream of chunks into chunks of `size` rows (the last may be short) that own their memory: of `memory`, but
    for those that own theirs.

    Raises:
        DataError: images of different sizes in one of them.
    """
    batch = _Filling(size, recipe, memory)
    for chunk in chunks:
        if chunk.owned and len(chunk) == size and not batch.rows:
            yield chunk.with_own_columns()
            del chunk
            continue
        at = 0
        while at < len(chunk):
            rows = min(size - batch.rows, len(chunk) - at)
            batch.take(chunk.cut(at, at + rows))
            at += rows
            if batch.rows == size:
                yield batch.whole()
                batch = _Filling(size, recipe, memory)
        del chunk  # before the next one is waited for: a chunk may be most of what the object store holds
    if batch.rows:
        yield batch.whole()


class _Filling:
    """A batch that is being filled. Pixels are copied at once, so that no chunk is kept until the batch is full."""

    def __init__(self, size: int, recipe: Recipe, memory: Memory) -> None:
        self.rows = 0
        self._size, self._recipe, self._memory = size, recipe, memory
        self._images: np.ndarray | None = None  # uint8 [V, size, H, W, 3], once an image has told H and W
        self._first = -1  # the dense number of that image
        self._views = recipe.views
        self._columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._reasons: list[str] = []

    def take(self, part: Chunk) -> None:
        """Put `part` behind what is there."""
        views, rows, *shape = part.images.shape
        self._views = views
        stop = self.rows + rows
        if shape[0]:  # else not one of its rows decoded
            if self._images is None:
                self._images = self._memory((views, self._size, *shape))
                self._images[:, : self.rows] = 0
                self._first = int(part.index[0])
            if shape != list(self._images.shape[2:]):
                first = self._first, self._images.shape[2:]
                raise sizes_differ(self._recipe, first, (int(part.index[0]), tuple(shape)))
            self._images[:, self.rows : stop] = part.images
        elif self._images is not None:
            self._images[:, self.rows : stop] = 0
        self._columns.append((part.labels.copy(), part.ids.copy(), part.index.copy()))
        self._reasons += part.reasons
        self.rows = stop

    def whole(self) -> Chunk:
        """What has been taken."""
        images = self._images if self._images is not None else self._memory((self._views, self._size, 0, 0, 3))
        labels, ids, index = (np.concatenate(column) for column in zip(*self._columns, strict=True))
        if self.rows < self._size:
            images = np.ascontiguousarray(images[:, : self.rows])
        return Chunk(images, labels, ids, index, self._reasons)


def fill_bad(chunk: Chunk, recipe: Recipe) -> None:
    """Give the slots of rows that did not decode to good rows of the batch, in place; see `stand_ins`.

    Raises:
        DataError: no row of the batch decoded.
    """
    good = np.array([not reason for reason in chunk.reasons], dtype=bool)
    if good.all():
        return
    if not good.any():
        raise nothing_decodes(recipe, chunk)
    bad, instead = np.flatnonzero(~good), stand_ins(good)[~good]
    chunk.images[:, bad] = chunk.images[:, instead]
    for column in (chunk.labels, chunk.ids, chunk.index):
        column[bad] = column[instead]


def to_batch(chunk: Chunk, device: torch.device) -> Batch:
    """Put a chunk that owns its memory, or that nobody writes to, on `device`: as views of it where that is this
    machine's memory.
    """
    views, rows, *shape = chunk.images.shape
    images = tensor_of(chunk.images).view(views * rows, *shape).permute(0, 3, 1, 2)
    labels, index, ids = (tensor_of(c) for c in (chunk.labels, chunk.index, chunk.ids))
    if device.type != "cpu":
        images, labels, index, ids = (t.to(device, non_blocking=True) for t in (images, labels, index, ids))
    return Batch(images, labels, index, ids, views)
