"""Handwritten digits that come with scikit-learn: 1,797 images of 8 x 8, made larger, with a fixed split."""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Iterator

import cv2
import numpy as np

from kdray.data.decode import encode_png
from kdray.data.writer import Sample

TEST_FRACTION = 0.2


def digit_samples(split: str, *, size: int = 32, classes: int = 10) -> Iterator[Sample]:
    """The digits of `split` ("train" or "test") as RGB PNG of side `size`, ids their numbers in scikit-learn's order.

    With fewer than ten classes, labels are the digits modulo `classes`; with more, a label is a digit and one of
    several colours, so that there is something to learn in each.
    """
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    rows = split_of_digits(digits, split)
    colours = -(-classes // 10)
    for row in rows.tolist():
        grey = (pixels[row].reshape(8, 8) * (255 / 16)).round().astype(np.uint8)
        grey = cv2.resize(grey, (size, size), interpolation=cv2.INTER_LINEAR)
        colour = _hash(f"colour {row}") % colours
        label = (int(digits[row]) + 10 * colour) % classes
        tint = np.array(colorsys.hsv_to_rgb(colour / colours, 1.0, 1.0) if colours > 1 else (1.0, 1.0, 1.0))
        image = (grey[:, :, None] * tint).round().astype(np.uint8)
        yield Sample(encode_png(image), label, row)


def split_of_digits(digits: np.ndarray, split: str) -> np.ndarray:
    """Row numbers of `split`, ascending: of every digit the fifth with the lowest hash of its row is the test set."""
    test: list[int] = []
    for digit in range(10):
        rows = np.flatnonzero(digits == digit).tolist()
        rows.sort(key=lambda row: _hash(f"split {row}"))
        test += rows[: round(TEST_FRACTION * len(rows))]
    chosen = np.isin(np.arange(len(digits)), test)
    return np.flatnonzero(chosen if split == "test" else ~chosen)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
