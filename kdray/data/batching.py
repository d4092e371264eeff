"""Cutting a stream of chunks into batches on a device.

Chunks come in any size, batches in one. A batch owns its memory: it is copied once out of the chunks, which may be
pages of Ray's object store that are to be freed soon.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from kdray.data.bad import stand_ins
from kdray.data.batch import Batch
from kdray.data.chunks import Chunk, Recipe, nothing_decodes, sizes_differ


def batches(chunks: Iterable[Chunk], size: int, recipe: Recipe, pin: bool = False) -> Iterator[Chunk]:
    """Cut a stream of chunks into chunks of `size` rows (the last may be short) that own their (pinned) memory."""
    parts: list[Chunk] = []
    have = 0
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            part = chunk.cut(at, at + size - have)
            parts.append(part)
            at, have = at + len(part), have + len(part)
            if have == size:
                yield _join(parts, recipe, pin)
                parts, have = [], 0
    if parts:
        yield _join(parts, recipe, pin)


def _join(parts: list[Chunk], recipe: Recipe, pin: bool) -> Chunk:
    shapes = [part.images.shape[2:] for part in parts]
    shape = next((s for s in shapes if s[0]), shapes[0])
    for part, other in zip(parts, shapes, strict=True):
        if other[0] and other != shape:
            first = parts[shapes.index(shape)]
            raise sizes_differ(recipe, (int(first.index[0]), shape), (int(part.index[0]), other))
    rows = sum(map(len, parts))
    images = torch.empty((parts[0].images.shape[0], rows, *shape), dtype=torch.uint8, pin_memory=pin).numpy()
    at = 0
    for part, other in zip(parts, shapes, strict=True):
        images[:, at : at + len(part)] = part.images if other == shape else 0
        at += len(part)
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "ids", "index")]
    return Chunk(images, columns[0], columns[1], columns[2], [reason for part in parts for reason in part.reasons])


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
    """Put a chunk that owns its memory on `device`, as views of it where that is this machine's memory."""
    views, rows, *shape = chunk.images.shape
    images = torch.from_numpy(chunk.images).view(views * rows, *shape).permute(0, 3, 1, 2)
    labels, index, ids = (torch.from_numpy(c) for c in (chunk.labels, chunk.index, chunk.ids))
    if device.type != "cpu":
        images, labels, index, ids = (t.to(device, non_blocking=True) for t in (images, labels, index, ids))
    return Batch(images, labels, index, ids, views)
