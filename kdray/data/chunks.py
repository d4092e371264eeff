"""Rows decoded and augmented, on their way to the training loop. No torch: a data task should start in no time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from kdray.data.augment import Augment
from kdray.data.decode import BadImage
from kdray.data.manifest import Manifest
from kdray.errors import DataError

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
            return [recipe.augment.apply(image, draws[view][i], view) for view in views]
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
    what = "images come" if len({row for row, _ in rows}) > 1 else "an image's views come"
    return DataError(
        f"{what} out in different sizes: {said}",
        where=recipe.augment.where,
        fix="End with {random_resized_crop: {size: 224}}, or {resize: {size: 256}} and {center_crop: {size: 224}}",
    )


def nothing_decodes(recipe: Recipe, chunk: Chunk) -> DataError:
    """The error for a batch without a single good image."""
    row, reason = next(iter(chunk.bad().items()))
    return DataError(
        f"no image of a batch of {len(chunk)} decodes, such as {recipe.manifest.position(row)} ({reason})",
        where=recipe.manifest.uri,
        fix="Write the shards again",
    )
