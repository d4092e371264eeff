"""What resident feeds keep in memory: plain arrays, made once from the shards, which any number of processes may read.

No torch: a process that only decodes should start in no time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdray.data.augment import Augment
from kdray.data.chunks import Recipe, sizes_differ
from kdray.data.decode import BadImage, decode_many
from kdray.data.freed import give_back
from kdray.data.manifest import Manifest
from kdray.data.ops import Size
from kdray.data.reader import iter_rows
from kdray.data.threads import Workers, cpus, decode_rows, prefetch
from kdray.data.transforms import PadCrop

_LOAD_ROWS = 4096


@dataclass(frozen=True)
class Columns:
    """What is known of n rows besides their pixels: `labels`, `ids`, `index` (dense row numbers) int64 [n], and `bad`:
    why rows did not decode, by dense number.
    """

    labels: np.ndarray
    ids: np.ndarray
    index: np.ndarray
    bad: dict[int, str]


@dataclass(frozen=True)
class Decoded:
    """The images of n rows, in file order.

    `pixels` uint8 [bytes] holds them end to end: image i begins at `starts` int64 [n] and is of `sizes` int64 [n, 2]
    (height, width). Where all are of one `size` (height, width), each is padded by `padding` pixels on all sides, which
    its size does not count, and a bad row's are zeros; else a bad row has no pixels.
    """

    pixels: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    columns: Columns
    size: Size | None
    padding: int = 0

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes + 8 * 6 * len(self.starts)

    @property
    def padded(self) -> np.ndarray:
        """uint8 [n, H + 2p, W + 2p, 3], where there is a `size`."""
        assert self.size is not None
        return self.pixels.reshape(-1, *(side + 2 * self.padding for side in self.size), 3)

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3], a view without padding. A bad row has none."""
        p, start = self.padding, int(self.starts[i])
        height, width = (int(side) for side in self.sizes[i])
        whole = self.pixels[start : start + 3 * (height + 2 * p) * (width + 2 * p)]
        return whole.reshape(height + 2 * p, width + 2 * p, 3)[p : p + height, p : p + width]


def decode_all(manifest: Manifest, rows: np.ndarray, pad: PadCrop | None) -> Decoded:
    """Decode the dense `rows` int64 [n]. `pad` pads the images where they are of one size."""
    index = np.sort(rows)  # in file order, so that each row group is read once
    labels, ids = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    columns = Columns(labels, ids, index, {})
    images: list[np.ndarray | None] = []
    for part in prefetch(lambda: iter_rows(manifest, index, _LOAD_ROWS), 1):
        at = len(images)
        labels[at : at + len(part)], ids[at : at + len(part)] = part.labels, part.ids
        for image in decode_many(part.images, cpus()):
            if isinstance(image, BadImage):
                columns.bad[int(index[len(images)])] = str(image)
            images.append(None if isinstance(image, BadImage) else image)
    shapes = {image.shape for image in images if image is not None}
    decoded = _stacked(images, columns, pad, shapes.pop()) if len(shapes) == 1 else _end_to_end(images, columns)
    give_back()
    return decoded


def _stacked(images: list[np.ndarray | None], columns: Columns, pad: PadCrop | None, shape: tuple[int, ...]) -> Decoded:
    height, width, _ = shape
    padding = pad.padding if pad is not None else 0
    padded = np.empty((len(images), height + 2 * padding, width + 2 * padding, 3), np.uint8)
    blank = np.zeros(shape, np.uint8)
    for i, image in enumerate(images):
        known = blank if image is None else image
        padded[i] = pad.pad(known) if pad is not None and padding else known
        images[i] = None  # two copies of all would not always fit
    starts = np.arange(len(images), dtype=np.int64) * padded[0].nbytes
    sizes = np.broadcast_to(np.array([height, width], np.int64), (len(images), 2)).copy()
    return Decoded(padded.reshape(-1), starts, sizes, columns, (height, width), padding)


def _end_to_end(images: list[np.ndarray | None], columns: Columns) -> Decoded:
    sizes = np.array([(0, 0) if image is None else image.shape[:2] for image in images], np.int64).reshape(-1, 2)
    ends = np.cumsum(3 * sizes.prod(axis=1))
    starts = ends - 3 * sizes.prod(axis=1)
    pixels = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    for i, image in enumerate(images):
        if image is not None:
            pixels[starts[i] : ends[i]] = image.reshape(-1)
        images[i] = None
    return Decoded(pixels, starts, sizes, columns, None)


@dataclass(frozen=True)
class Transformed:
    """The rows that decoded after a transform that is not random: `images` uint8 [n, H, W, 3], H = W = 0 where there
    are none. The columns are of these rows, `bad` of the others.
    """

    images: np.ndarray
    columns: Columns

    @property
    def nbytes(self) -> int:
        return self.images.nbytes + 8 * 3 * len(self.images)


def transform_all(manifest: Manifest, rows: np.ndarray, transform: Augment) -> Transformed:
    """Decode and transform the dense `rows` int64 [n].

    Raises:
        DataError: they come out in different sizes.
    """
    recipe, workers = Recipe(manifest, transform), Workers()
    bad: dict[int, str] = {}
    images: np.ndarray | None = None
    columns: list[list[np.ndarray]] = [[np.empty(0, np.int64)] * 3]
    at = 0
    try:
        for encoded in iter_rows(manifest, rows, _LOAD_ROWS):
            chunk = decode_rows(encoded, recipe, workers)
            bad |= chunk.bad()
            good = chunk.good()
            if not len(good):
                continue
            if images is None:
                images, first = np.empty((len(rows), *good.images.shape[2:]), np.uint8), int(good.index[0])
            if images.shape[1:] != good.images.shape[2:]:
                sizes = (first, images.shape[1:]), (int(good.index[0]), good.images.shape[2:])
                raise sizes_differ(recipe, *sizes)
            images[at : at + len(good)] = good.images[0]
            columns.append([good.labels, good.ids, good.index])
            at += len(good)
    finally:
        workers.close()
    labels, ids, index = (np.concatenate(column) for column in zip(*columns, strict=True))
    pixels = np.empty((0, 0, 0, 3), np.uint8) if images is None else images[:at]
    return Transformed(pixels, Columns(labels, ids, index, bad))
