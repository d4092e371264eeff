"""Small sets of images that the feeds' tests read, and what every feed must give."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kdray.data.batch import Batch
from kdray.data.decode import encode_png
from kdray.data.manifest import Manifest
from kdray.data.writer import Sample, write_shards
from kdray.experiment import Data

PER_CLASS = 20


def squares(folder: Path | str, rows: int, side: int = 16, bad: Iterable[int] = (), flat: bool = False) -> Manifest:
    """PNGs of one size, of noise or `flat`, sorted by class, in shards of about 100 rows and row groups of 16.

    Ids are text; the images of `bad` rows do not decode.
    """
    rng = np.random.default_rng(1)
    high = 1 if flat else 256
    images = [encode_png(rng.integers(0, high, (side, side, 3), dtype=np.uint8)) for _ in range(rows)]
    return _write(folder, images, bad)


def photographs(folder: Path | str, rows: int, bad: Iterable[int] = ()) -> Manifest:
    """JPEGs of many sizes, 40 to 90 pixels a side."""
    rng = np.random.default_rng(2)
    images = []
    for _ in range(rows):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, rng.integers(40, 91, 2).tolist(), interpolation=cv2.INTER_CUBIC)
        images.append(cv2.imencode(".jpg", smooth)[1].tobytes())
    return _write(folder, images, bad)


def _write(folder: Path | str, images: list[bytes], bad: Iterable[int]) -> Manifest:
    spoiled = set(bad)
    samples = [
        Sample(image[::-1] if i in spoiled else image, i // PER_CLASS, f"sample-{i}") for i, image in enumerate(images)
    ]
    size = sum(map(len, images)) * 100 // len(images)
    return write_shards(samples, str(folder), shard_bytes=size, row_group_rows=16)


def data(manifest: Manifest, **settings: Any) -> Data:
    """The experiment's data section for a set of shards."""
    return Data(train=manifest.uri, **settings)


def identical(one: Batch, other: Batch) -> bool:
    """Whether two batches are equal in every bit."""
    return one.views == other.views and all(
        getattr(one, name).equal(getattr(other, name)) for name in ("images", "labels", "index", "ids")
    )
