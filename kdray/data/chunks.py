"""Rows decoded and augmented, on their way to the training loop. No torch: a data task should start in no time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np

from kdray.data.augment import Augment
from kdray.data.decode import BadImage
from kdray.data.manifest import Manifest
from kdray.errors import DataError

Shape = tuple[int, ...]
Memory = Callable[[Shape], np.ndarray]
Made = list[Shape] | str  # of a row: the shapes of its views, or why it does not decode
Mapper = Callable[[Callable[[int], Made], Iterable[int]], Iterable[Made]]


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
    did not decode or would become too large, "" where it is good. Pixels of bad rows are zeros; H = W = 0 where all
    rows are bad. `owned` says that the pixels lie in memory that nobody else uses and that suits a batch.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    index: np.ndarray
    reasons: list[str]
    owned: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def cut(self, start: int, stop: int) -> Chunk:
        """Rows start..stop, without copying pixels."""
        at = slice(start, stop)
        return Chunk(self.images[:, at], self.labels[at], self.ids[at], self.index[at], self.reasons[at])

    def with_own_columns(self) -> Chunk:
        """The same pixels, with columns that share no memory with any other's."""
        return replace(self, labels=self.labels.copy(), ids=self.ids.copy(), index=self.index.copy())

    def bad(self) -> dict[int, str]:
        """Dense row number and reason of the rows that did not decode."""
        return {int(self.index[i]): reason for i, reason in enumerate(self.reasons) if reason}

    def good(self) -> Chunk:
        """The rows that decoded."""
        if not any(self.reasons):
            return self
        at = np.array([i for i, reason in enumerate(self.reasons) if not reason], dtype=np.int64)
        return Chunk(self.images[:, at], self.labels[at], self.ids[at], self.index[at], [""] * len(at))


def new_memory(shape: Shape) -> np.ndarray:
    """Memory of its own for the pixels of a chunk."""
    return np.empty(shape, dtype=np.uint8)


class Reused:
    """Memory for the pixels of one chunk after the other: each must have been copied before the next one is made.

    New memory would cost a page fault for every 4 KiB: a tenth of the time that decoding takes.
    """

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def __call__(self, shape: Shape) -> np.ndarray:
        size = int(np.prod(shape))
        if self._memory.nbytes < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size].reshape(shape)


class Growing:
    """A chunk of n rows that are augmented one by one, by any number of threads.

    `pixels(i)` gives row i decoded, uint8 [H, W, 3], or raises BadImage; `memory` gives the uint8 array of a shape
    where the pixels go.
    """

    def __init__(
        self,
        pixels: Callable[[int], np.ndarray],
        labels: np.ndarray,
        ids: np.ndarray,
        index: np.ndarray,
        recipe: Recipe,
        memory: Memory = new_memory,
    ) -> None:
        self._pixels, self._recipe = pixels, recipe
        self._columns = labels, ids, index
        augment, views = recipe.augment, range(recipe.views)
        self._draws = [augment.draw(recipe.seed, recipe.epoch, ids, view) for view in views]
        self._images = _Pixels(recipe.views, len(labels), memory)

    def __len__(self) -> int:
        return len(self._columns[0])

    def row(self, i: int) -> Made:
        """Make row i: the shapes of its views, or why it does not decode.

        Raises:
            DataError: an image that a transform cannot take.
        """
        recipe = self._recipe
        try:
            image = self._pixels(i)
            made = [recipe.augment.apply(image, draws[i], view) for view, draws in enumerate(self._draws)]
        except BadImage as error:
            return str(error) or "does not decode"
        except DataError as error:
            position = recipe.manifest.position(int(self._columns[2][i]))
            where = f"{recipe.augment.where}: {error.where} on {position}"
            raise DataError(error.problem, where=where, fix=error.fix) from error
        # Of a good row only: the first one tells `_Pixels` the size.
        return [self._images.put(view, i, image) for view, image in enumerate(made)]

    def made(self, mapper: Mapper = map) -> Chunk:
        """The chunk, made here and now; `mapper` may spread the rows over threads. Raises as `row` and `whole`."""
        return self.whole(mapper(self.row, range(len(self))))

    def whole(self, rows: Iterable[Made], owned: bool = False) -> Chunk:
        """The chunk, from what `row` said of each row, in order.

        Raises:
            DataError: images that come out in different sizes.
        """
        done = list(rows)
        labels, ids, index = self._columns
        shapes = [(i, shape) for i, result in enumerate(done) if not isinstance(result, str) for shape in result]
        for i, shape in shapes:
            if shape != shapes[0][1]:
                first, size = shapes[0]
                raise sizes_differ(self._recipe, (int(index[first]), size), (int(index[i]), shape))
        images = self._images.images
        if images is None:
            images = np.empty((self._recipe.views, len(labels), 0, 0, 3), dtype=np.uint8)
        for i, result in enumerate(done):
            if isinstance(result, str):
                images[:, i] = 0
        return Chunk(images, labels, ids, index, [r if isinstance(r, str) else "" for r in done], owned)


class _Pixels:
    """The memory of a chunk's pixels, made when the first good row tells how large. Each image is copied into it as
    soon as it is done: to keep a chunk's images apart until the last one costs a page fault for every 4 KiB of them.
    """

    def __init__(self, views: int, rows: int, memory: Memory) -> None:
        self.images: np.ndarray | None = None
        self._views, self._rows, self._memory = views, rows, memory
        self._making = Lock()

    def put(self, view: int, row: int, image: np.ndarray) -> Shape:
        """Take up uint8 [H, W, 3] where it has the size of the first; return the size that it has."""
        if self.images is None:
            with self._making:
                if self.images is None:
                    self.images = self._memory((self._views, self._rows, *image.shape))
        if image.shape == self.images.shape[2:]:
            self.images[view, row] = image
        return image.shape


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
