"""Decoded and augmented rows on their way to the training loop, and how they are cut into batches.

Chunks come in any size, batches in one. A batch owns its memory: it is copied once out of the chunks, which may be
pages of Ray's object store that are to be freed soon.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from kdray.data.augment import Augment
from kdray.data.decode import BadImage
from kdray.data.feed import Batch
from kdray.data.manifest import Manifest
from kdray.errors import DataError

log = logging.getLogger(__name__)

Mapper = Callable[[Callable[[int], list[np.ndarray] | str], Iterable[int]], Iterable[list[np.ndarray] | str]]


@dataclass(frozen=True)
class Recipe:
    """All that decides the pixels of a row besides its encoded bytes."""

    manifest: Manifest
    augment: Augment
    seed: int = 0
    epoch: int = 0
    views: int = 1


@dataclass
class Chunk:
    """n rows in V views: `images` uint8 [V, n, H, W, 3]; `labels`, `ids`, `index` int64 [n]; `reasons` says why a row
    did not decode, "" where it did. Pixels of bad rows are zeros; H = W = 0 where all rows are bad.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    index: np.ndarray
    reasons: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def cut(self, start: int, stop: int) -> Chunk:
        """Rows start..stop, without copying pixels."""
        at = slice(start, stop)
        return Chunk(self.images[:, at], self.labels[at], self.ids[at], self.index[at], self.reasons[at])

    def bad(self) -> dict[int, str]:
        """Dense row number and reason of the rows that did not decode."""
        return {int(self.index[i]): reason for i, reason in enumerate(self.reasons) if reason}

    def good(self) -> Chunk:
        """The rows that decoded."""
        if not any(self.reasons):
            return self
        at = np.array([i for i, reason in enumerate(self.reasons) if not reason], dtype=np.int64)
        return Chunk(self.images[:, at], self.labels[at], self.ids[at], self.index[at], [""] * len(at))


def build_chunk(
    pixels: Callable[[int], np.ndarray],
    labels: np.ndarray,
    ids: np.ndarray,
    index: np.ndarray,
    recipe: Recipe,
    mapper: Mapper = map,
) -> Chunk:
    """Augment n rows, where `pixels(i)` gives row i decoded, uint8 [H, W, 3], or raises BadImage.

    `mapper` may spread the rows over threads.

    Raises:
        DataError: images that come out in different sizes, or that a transform cannot take.
    """
    views = range(recipe.views)
    draws = [recipe.augment.draw(recipe.seed, recipe.epoch, ids, view) for view in views]

    def one(i: int) -> list[np.ndarray] | str:
        try:
            image = pixels(i)
        except BadImage as error:
            return str(error) or "does not decode"
        try:
            return [recipe.augment.apply(image, draws[view][i]) for view in views]
        except DataError as error:
            where = f"{recipe.augment.where}: {error.where} on {recipe.manifest.position(int(index[i]))}"
            raise DataError(error.problem, where=where, fix=error.fix) from error

    done = list(mapper(one, range(len(labels))))
    first = next((i for i, views_of in enumerate(done) if not isinstance(views_of, str)), None)
    shape = (0, 0, 3) if first is None else done[first][0].shape  # type: ignore[union-attr]
    images = np.empty((recipe.views, len(labels), *shape), dtype=np.uint8)
    for i, result in enumerate(done):
        if isinstance(result, str):
            images[:, i] = 0
            continue
        for view in views:
            if result[view].shape != shape:
                raise sizes_differ(recipe, (int(index[first or 0]), shape), (int(index[i]), result[view].shape))
            images[view, i] = result[view]
    return Chunk(images, labels, ids, index, [result if isinstance(result, str) else "" for result in done])


def sizes_differ(recipe: Recipe, *rows: tuple[int, tuple[int, ...]]) -> DataError:
    """The error for two rows (dense number, shape) whose images cannot stand in one batch."""
    said = " and ".join(f"{recipe.manifest.position(i)} as {shape[1]} x {shape[0]}" for i, shape in rows)
    return DataError(
        f"images come out in different sizes: {said}",
        where=recipe.augment.where,
        fix="End with {random_resized_crop: {size: 224}}, or {resize: {size: 256}} and {center_crop: {size: 224}}",
    )


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
    """Give the slots of rows that did not decode to the first good row of the batch, in place.

    Raises:
        DataError: no row of the batch decoded.
    """
    bad = np.array([i for i, reason in enumerate(chunk.reasons) if reason], dtype=np.int64)
    if not len(bad):
        return
    good = next((i for i, reason in enumerate(chunk.reasons) if not reason), None)
    if good is None:
        raise nothing_decodes(recipe, chunk)
    chunk.images[:, bad] = chunk.images[:, good : good + 1]
    for column in (chunk.labels, chunk.ids, chunk.index):
        column[bad] = column[good]


def nothing_decodes(recipe: Recipe, chunk: Chunk) -> DataError:
    """The error for a batch without a single good image."""
    row, reason = next(iter(chunk.bad().items()))
    return DataError(
        f"no image of a batch of {len(chunk)} decodes, such as {recipe.manifest.position(row)} ({reason})",
        where=recipe.manifest.uri,
        fix="Write the shards again",
    )


def to_batch(chunk: Chunk, device: torch.device) -> Batch:
    """Put a chunk that owns its memory on `device`, as views of it where that is this machine's memory."""
    views, rows, *shape = chunk.images.shape
    images = torch.from_numpy(chunk.images).view(views * rows, *shape).permute(0, 3, 1, 2)
    labels, index, ids = (torch.from_numpy(c) for c in (chunk.labels, chunk.index, chunk.ids))
    if device.type != "cpu":
        images, labels, index, ids = (t.to(device, non_blocking=True) for t in (images, labels, index, ids))
    return Batch(images, labels, index, ids, views)
